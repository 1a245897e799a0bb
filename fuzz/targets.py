"""What is fuzzed: a row each, with the module that says what must hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.events import Source
from fuzz import forms, grown, mapping, rules, texts, values, webhooks, words

ROOT = Path(__file__).parent
CORPUS = ROOT / "corpus"


@dataclass(frozen=True)
class Target:
    """Something that takes foreign bytes. `check` fails on any that break a promise."""

    name: str
    what: str
    check: Callable[[bytes], None]
    words: Callable[[], tuple[bytes, ...]]
    fixtures: Path | None = None  # a folder of the tests whose files are inputs, too
    longest: int = 256  # bytes of an input

    @property
    def folders(self) -> list[Path]:
        """Return where inputs of it are kept."""
        return [CORPUS / self.name, *([self.fixtures] if self.fixtures else [])]

    def inputs(self) -> dict[Path, bytes]:
        """Return the inputs that are kept."""
        return {path: path.read_bytes() for folder in self.folders for path in sorted(folder.iterdir())}


def _reader(source: Source) -> Target:
    return Target(
        source.value,
        f"the reader of {source.title()}'s webhooks",
        partial(webhooks.check, source),
        partial(words.of_vendor, source.value),
        words.FIXTURES / source / "hooks",
    )


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        *map(_reader, Source),
        Target(
            "forms", "forms with PHP's brackets", forms.check, words.of_forms, words.FIXTURES / "kommo" / "hooks"
        ),
        Target("grown", "bodies that grow as large as they may be", grown.check, words.of_growth, longest=256),
        Target("values", "single values: addresses, ids, times, texts", values.check, words.of_texts),
        Target(
            "rules", "from a webhook to what is owed, by the shipped mapping file", rules.check, words.of_growth
        ),
        Target("texts", "templates, and what strangers write into them", texts.check, words.of_texts),
        Target("mapping", "the mapping file's loader", mapping.check, words.of_mapping, longest=2048),
    )
}
