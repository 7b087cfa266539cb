"""Words that people search for, and the page that the search of the site shows first for each.

`ANSWERS` becomes entries of the index, and the build fails if the search shows another page first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ANSWERS = {
    "docs/adaptation": ["test-time adaptation", "TENT"],
    "docs/calibration": ["calibration", "ECE", "temperature scaling", "overconfidence"],
    "docs/chest-xray": ["multi-label", "multilabel", "chest x-ray", "tags"],
    "docs/check": ["CI", "gate"],
    "docs/cluster": ["several machines", "cluster"],
    "docs/conformal": ["conformal", "prediction sets"],
    "docs/decisions": ["decision curve", "threshold"],
    "docs/deferral": ["review rate", "risk coverage"],
    "docs/estimate": ["drift", "without labels"],
    "docs/evaluate": ["evaluate"],
    "docs/faq": ["FAQ"],
    "docs/glossary": ["glossary"],
    "docs/guard": ["selective prediction", "abstain"],
    "docs/guard-limits": ["missed cancers", "false negatives"],
    "docs/intervals": ["confidence interval", "interval"],
    "docs/metrics": ["ROC", "AUROC", "sensitivity"],
    "docs/other-images": ["OOD"],
    "docs/patient-decisions": ["patient level", "per patient"],
    "docs/patients": ["patients", "subgroups"],
    "docs/predictions": ["black box"],
    "docs/published-files": ["mCE", "ImageNet-C files"],
    "docs/ray": ["Ray"],
    "docs/readers": ["radiologists"],
    "docs/recipes": ["seed"],
    "docs/unseen-site": ["unseen site"],
    "docs/report": ["confusion matrix", "reliability diagram"],
    "docs/serve": ["guard"],
    "docs/scaling": ["cores"],
    "docs/shifts": ["distribution shift", "shift", "corruptions"],
    "docs/slurm": ["SLURM"],
    "docs/tracking": ["MLflow"],
    "docs/troubleshooting": ["error message"],
}


def with_entries(docname: str, source: str) -> str:
    """Let the index have the words that a page answers, at its title.

    >>> print(with_entries("docs/faq", "# Questions\\n\\nWhy?"))
    # Questions
    <BLANKLINE>
    ```{index} ! FAQ
    ```
    <BLANKLINE>
    Why?
    """
    entries = [f"\n```{{index}} ! {word}\n```\n" for word in ANSWERS.get(docname, [])]
    return re.sub(
        r"^# .*\n", lambda title: title[0] + "".join(entries), source, count=1, flags=re.M
    )


@dataclass(frozen=True)
class Ranking:
    """What searchtools.js of Sphinx does with searchindex.js, without the names of objects.

    Those have at most 26 points, fewer than a whole entry of the index (100).
    """

    index: dict[str, object]
    stem: Callable[[str], str]

    @classmethod
    def read(cls, script: str, stem: Callable[[str], str]) -> Ranking:
        """Read the text of searchindex.js."""
        return cls(json.loads(script[script.index("(") + 1 : script.rindex(")")]), stem)

    def first(self, query: str) -> str:
        """The page that is shown first; of equal ones, the first by its title."""
        found = [*self._titles(query.lower()), *self._entries(query.lower()), *self._texts(query)]
        names, titles = self.index["docnames"], self.index["titles"]
        return names[min(found, key=lambda each: (-each[1], titles[each[0]].lower()))[0]]

    def has_words(self, page: str, query: str) -> bool:
        """Whether each word of a query stands on a page, or in one of its titles."""
        number = self.index["docnames"].index(page)
        where = ("terms", "titleterms")
        words = self._words(query)
        return all(any(number in self._pages_of(word, each) for each in where) for word in words)

    def _words(self, query: str) -> list[str]:
        return [self.stem(word) for word in re.findall(r"\w+", query.lower())]

    def _pages_of(self, word: str, where: str) -> list[int]:
        pages = self.index[where].get(word, [])
        return pages if isinstance(pages, list) else [pages]

    def _titles(self, query: str) -> Iterator[tuple[int, int]]:
        for title, places in self.index["alltitles"].items():
            if query in title.lower() and len(query) >= len(title) / 2:
                for page, _ in places:
                    is_whole = self.index["titles"][page] == title
                    yield page, round(15 * len(query) / len(title)) + is_whole

    def _entries(self, query: str) -> Iterator[tuple[int, int]]:
        for entry, places in self.index["indexentries"].items():
            if query in entry and len(query) >= len(entry) / 2:
                yield from (
                    (page, round(100 * len(query) / len(entry))) for page, _, main in places if main
                )

    def _texts(self, query: str) -> Iterator[tuple[int, int]]:
        words = self._words(query)
        texts = [set(self._pages_of(word, "terms")) for word in words]
        titles = [set(self._pages_of(word, "titleterms")) for word in words]
        for page in set.intersection(
            *(text | title for text, title in zip(texts, titles, strict=True))
        ):
            yield page, 15 if any(page in title for title in titles) else 5


def wrong_answers(ranking: Ranking) -> Iterator[str]:
    """What the search does not find as it should, in words."""
    for page, words in ANSWERS.items():
        for word in words:
            if (first := ranking.first(word)) != page:
                yield f"a search for {word!r} shows {first} before {page}"
            if not ranking.has_words(page, word):
                yield f"{page} answers {word!r} and does not have the word"
