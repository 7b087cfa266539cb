"""Programs that may not import what they do not need: a real process, in which the import fails."""

import os
import subprocess
import sys

import torch

# Libraries of networks and of training, each of which takes a second to import or more.
SLOW = ("timm", "torchvision", "lightning_fabric", "torch._dynamo", "transformers", "onnx")
CODE = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name in {refused}:
            raise AssertionError(f"{{name}} is imported and not needed")

sys.meta_path.insert(0, Refused())
{code}
"""


def run_without(refused, code, *arguments, cwd):
    """Run code in a new process in which importing these modules is an error that nobody catches.

    Libraries catch an ImportError and go on without it; an AssertionError they do not.
    """
    command = [sys.executable, "-c", CODE.format(refused=refused, code=code), *arguments]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # runs record them
    env = {**os.environ, **threads}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)
