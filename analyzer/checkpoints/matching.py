"""Which tensor of the base a tuned tensor came from, by name only, never by position."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import product

from analyzer.checkpoints.names import strip_wrappers

MAX_PREFIX = 3
"""Most components of a model prefix, as in ``model.language_model.model.``."""

# A prefix may be dropped or exchanged, but never one stack for another.
_STACKS = frozenset({"encoder", "decoder", "vision", "vision_model", "text_model", "audio"})


def match_names(base: Iterable[str], tuned: Iterable[str]) -> dict[str, str]:
    """Tuned name → base name, for the names that have a counterpart; no base name twice.

    Equal names match; else names that are equal once wrappers are stripped; else names that
    differ by one model prefix shared by the whole checkpoint (`bert.encoder…` against
    `encoder…`, `model.layers…` against `model.language_model.layers…`), in either direction:
    of all such prefixes the one that matches most names. A name that shares its prefix with no
    other (an adapter of one module) has the one base name that differs from it by a prefix.
    """
    plain_base = _by_plain_name(base)
    plain_tuned = _by_plain_name(tuned)
    best = _matched(plain_base, plain_tuned, "", "")
    missing = len(plain_tuned) - len(best)
    if missing:
        for old, new in product(_prefixes(plain_base), _prefixes(plain_tuned)):
            if _stacks(old) and _stacks(new) and _stacks(old) != _stacks(new):
                continue
            found = _matched(plain_base, plain_tuned, old, new)
            if len(found) > len(best):
                best = found
        best |= _by_suffix(plain_base, plain_tuned, best)
    return best


def _by_plain_name(names: Iterable[str]) -> dict[str, str]:
    """Stripped name → name; of several with one stripped name the unwrapped or current one."""
    plain: dict[str, str] = {}
    for name in sorted(names, key=lambda name: ("original_module." in name, len(name), name)):
        plain.setdefault(strip_wrappers(name), name)
    return plain


def _matched(
    plain_base: dict[str, str], plain_tuned: dict[str, str], old: str, new: str
) -> dict[str, str]:
    """Matches if tuned names have the prefix `new` where base names have `old`.

    Names without the prefix (a head beside the wrapped model) keep matching as they are.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    rest = []
    for plain, name in plain_tuned.items():
        target = old + plain[len(new) :] if plain.startswith(new) else None
        if target in plain_base:
            found[name] = plain_base[target]
            taken.add(target)
        else:
            rest.append(plain)
    for plain in rest:
        if plain in plain_base and plain not in taken:
            found[plain_tuned[plain]] = plain_base[plain]
    return found


def _by_suffix(
    plain_base: dict[str, str], plain_tuned: dict[str, str], best: dict[str, str]
) -> dict[str, str]:
    """Unmatched tuned names without a companion that one free base name ends like."""
    owners: dict[str, list[str]] = defaultdict(list)
    for plain in plain_base:
        for suffix in _suffixes(plain):
            owners[suffix].append(plain)
    heads = Counter(plain.partition(".")[0] for plain in plain_tuned)
    taken = set(best.values())
    found: dict[str, str] = {}
    for plain, name in plain_tuned.items():
        if name in best or heads[plain.partition(".")[0]] > 1:
            continue
        suffix = next((s for s in _suffixes(plain) if s in owners), None)
        if suffix is None or len(owners[suffix]) > 1:
            continue
        base = owners[suffix][0]
        if plain_base[base] not in taken and _same_place(suffix, base, plain):
            found[name] = plain_base[base]
            taken.add(plain_base[base])
    return found


def _suffixes(name: str) -> Iterator[str]:
    """`name` without 0, 1, … leading components, block numbers and the last two left alone."""
    parts = name.split(".")
    for depth in range(min(MAX_PREFIX, len(parts) - 2) + 1):
        if any(part.isdigit() for part in parts[:depth]):
            return
        yield ".".join(parts[depth:])


def _same_place(suffix: str, base: str, tuned: str) -> bool:
    """Whether equal ends mean the same module: by their block number; else one name is the end."""
    old, new = _stacks(base.removesuffix(suffix)), _stacks(tuned.removesuffix(suffix))
    if any(part.isdigit() for part in suffix.split(".")):
        return not (old and new and old != new)
    return suffix in (base, tuned) and old == new


def _prefixes(names: Iterable[str]) -> list[str]:
    """Leading components that several names share, shortest first, beginning with none."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for depth in range(1, min(MAX_PREFIX, len(parts) - 1) + 1):
            counts[".".join(parts[:depth]) + "."] += 1
    most = max(counts.values(), default=0)
    # A model prefix covers most of a checkpoint; block numbers and leaves do not.
    common = [prefix for prefix, count in counts.items() if count > 1 and 4 * count >= most]
    return ["", *sorted(common, key=lambda prefix: (prefix.count("."), prefix))]


def _stacks(prefix: str) -> frozenset[str]:
    return _STACKS.intersection(prefix.split("."))
