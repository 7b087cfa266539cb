"""The facts of the MedMNIST sets: addresses, checksums, sizes and classes, and what is refused.

Sources: Yang et al., "MedMNIST v2", Scientific Data 10:41 (2023), for the sets at 28 pixels;
MedMNIST+, https://doi.org/10.5281/zenodo.10519652, for 64, 128 and 224 pixels. Checksums, counts,
tasks and class names are those of `INFO` in medmnist 3.0.2 (Apache-2.0), the authors' own package;
a test compares every row with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

RESOLUTIONS = (28, 64, 128, 224)
ADDRESS = "https://zenodo.org/records/10519652/files/{file}?download=1"
ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
)


class Facts(NamedTuple):
    """The facts of one set.

    Attributes:
        shows: what its images show.
        task: as MedMNIST calls it. Each image has one class in all of these; an ordinal regression
            is treated as a classification, as its authors do.
        channels: 1 for gray images, 3 for RGB.
        images: how many each split has.
        classes: names in label order.
        md5: by resolution, of the published file.
        classes_are: what the classes stand for.
    """

    shows: str
    task: str
    channels: int
    images: Mapping[str, int]
    classes: tuple[str, ...]
    md5: Mapping[int, str]
    classes_are: str = "classes"

    @property
    def title(self) -> str:
        """One line for lists."""
        colour = "colour" if self.channels == 3 else "gray"
        count = f"{sum(self.images.values()):,}"
        return f"{count} {self.shows}, {len(self.classes)} {self.classes_are}, {colour}"


def file_name(name: str, resolution: int) -> str:
    """The name of the file that is published for a set at a resolution.

    >>> file_name("pathmnist", 28), file_name("pathmnist", 64)
    ('pathmnist.npz', 'pathmnist_64.npz')
    """
    return f"{name}.npz" if resolution == 28 else f"{name}_{resolution}.npz"


SETS = {
    "bloodmnist": Facts(
        shows="blood cells under the microscope",
        task="multi-class",
        channels=3,
        images={"train": 11959, "val": 1712, "test": 3421},
        classes=(
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
        md5={
            28: "7053d0359d879ad8a5505303e11de1dc",
            64: "2b94928a2ae4916078ca51e05b6b800b",
            128: "adace1e0ed228fccda1f39692059dd4c",
            224: "b718ff6835fcbdb22ba9eacccd7b2601",
        },
    ),
    "breastmnist": Facts(
        shows="breast ultrasound images",
        task="binary-class",
        channels=1,
        images={"train": 546, "val": 78, "test": 156},
        classes=("malignant", "normal, benign"),
        md5={
            28: "750601b1f35ba3300ea97c75c52ff8f6",
            64: "742edef2a1fd1524b2efff4bd7ba9364",
            128: "363e4b3f8d712e9b5de15470a2aaadf1",
            224: "b56378a6eefa9fed602bb16d192d4c8b",
        },
    ),
    "dermamnist": Facts(
        shows="dermatoscopic images",
        task="multi-class",
        channels=3,
        images={"train": 7007, "val": 1003, "test": 2005},
        classes=(
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
        md5={
            28: "0744692d530f8e62ec473284d019b0c7",
            64: "b70a2f5635c6199aeaa28c31d7202e1f",
            128: "2defd784463fa5243564e855ed717de1",
            224: "8974907d8e169bef5f5b96bc506ae45d",
        },
    ),
    "octmnist": Facts(
        shows="retinal OCT images",
        task="multi-class",
        channels=1,
        images={"train": 97477, "val": 10832, "test": 1000},
        classes=("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        md5={
            28: "c68d92d5b585d8d81f7112f81e2d0842",
            64: "e229e9440236b774d9f0dfef9d07bdaf",
            128: "0a97e76651ace45c5d943ee3f65b63ae",
            224: "abc493b6d529d5de7569faaef2773ba3",
        },
    ),
    "organamnist": Facts(
        shows="axial CT slices",
        task="multi-class",
        channels=1,
        images={"train": 34561, "val": 6491, "test": 17778},
        classes=ORGANS,
        md5={
            28: "68e3f8846a6bd62f0c9bf841c0d9eacc",
            64: "2dcccc29b88e6da5a01161ef20cda288",
            128: "eeae80d0a227a8d099027e1b3cfd3b60",
            224: "50747347e05c87dd3aaf92c49f9f3170",
        },
        classes_are="organs",
    ),
    "organcmnist": Facts(
        shows="coronal CT slices",
        task="multi-class",
        channels=1,
        images={"train": 12975, "val": 2392, "test": 8216},
        classes=ORGANS,
        md5={
            28: "b9ceb9546e10131b32923c5bbeaea2b1",
            64: "3ce34a8724ea6f548e6db4744d03b6a9",
            128: "773c1f009daa3fe5d9a2a201b2a7ed94",
            224: "050f5e875dc056f6768abf94ec9995d1",
        },
        classes_are="organs",
    ),
    "organsmnist": Facts(
        shows="sagittal CT slices",
        task="multi-class",
        channels=1,
        images={"train": 13932, "val": 2452, "test": 8827},
        classes=ORGANS,
        md5={
            28: "9ab87b696fb54e2a387ebe992d6ed5f1",
            64: "53a6d115339d874c25e309a994ff46d3",
            128: "ded0c5fa01a95dc4978b956f613e9b8e",
            224: "b354719e553fbbb2513d5533f52a4cb1",
        },
        classes_are="organs",
    ),
    "pathmnist": Facts(
        shows="patches of colorectal tissue",
        task="multi-class",
        channels=3,
        images={"train": 89996, "val": 10004, "test": 7180},
        classes=(
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
        md5={
            28: "a8b06965200029087d5bd730944a56c1",
            64: "55aa9c1e0525abe5a6b9d8343a507616",
            128: "ac42d08fb904d92c244187169d1fd1d9",
            224: "2c51a510bcdc9cf8ddb2af93af1eadec",
        },
    ),
    "pneumoniamnist": Facts(
        shows="chest radiographs of children",
        task="binary-class",
        channels=1,
        images={"train": 4708, "val": 524, "test": 624},
        classes=("normal", "pneumonia"),
        md5={
            28: "28209eda62fecd6e6a2d98b1501bb15f",
            64: "8f4eceb4ccffa70c672198ea285246c6",
            128: "05b46931834c231683c68f40c47b2971",
            224: "d6a3c71de1b945ea11211b03746c1fe1",
        },
    ),
    "retinamnist": Facts(
        shows="images of the retina",
        task="ordinal-regression",
        channels=3,
        images={"train": 1080, "val": 120, "test": 400},
        classes=("0", "1", "2", "3", "4"),
        md5={
            28: "bd4c0672f1bba3e3a89f0e4e876791e4",
            64: "afda852cc34dcda56f86ad2b2457dbcc",
            128: "e48e916a24454daf90583d4e6efb1a18",
            224: "eae7e3b6f3fcbda4ae613ebdcbe35348",
        },
        classes_are="grades",
    ),
    "tissuemnist": Facts(
        shows="kidney cortex cells",
        task="multi-class",
        channels=1,
        images={"train": 165466, "val": 23640, "test": 47280},
        classes=(
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
        md5={
            28: "ebe78ee8b05294063de985d821c1c34b",
            64: "123ece2eba09d0aa5d698fda57103344",
            128: "61b955355d7425a89687b06cca3ce0c2",
            224: "b077128c4a949f0a4eb01517f9037b9c",
        },
    ),
}

VOLUMES = "it has 3-D volumes, and fairweather reads 2-D images"
REFUSED = {
    "adrenalmnist3d": VOLUMES,
    "chestmnist": (
        "each of its images has any number of 14 findings, and fairweather needs exactly one class "
        "per image; make a set of two classes from each finding, present or not"
    ),
    "fracturemnist3d": VOLUMES,
    "nodulemnist3d": VOLUMES,
    "organmnist3d": VOLUMES,
    "synapsemnist3d": VOLUMES,
    "vesselmnist3d": VOLUMES,
}

# Of these sets, MedMNIST's descriptions say only of pathmnist that the test images come from
# elsewhere. Kather et al., who made the images, say (https://doi.org/10.5281/zenodo.1214456) that
# CRC-VAL-HE-7K has other patients, and that it comes from the tissue bank of the NCT, from which a
# part of NCT-CRC-HE-100K came as well.
NATURAL_SHIFT = {
    "pathmnist": (
        "Train and val images come from NCT-CRC-HE-100K and test images from CRC-VAL-HE-7K, which "
        "has other patients and, as MedMNIST describes it, is from a different clinical centre."
    )
}
