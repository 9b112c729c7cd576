"""What two results must have in common for their numbers to be compared, and the refusal where they have not.

A change of judge moves win rates by ten points; another prompt, order, reference or decoding does no less. Such
results never share a heatmap, a curve or a comparison.
"""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from analysis.schema import COMPARABLE, plain
from harness.errors import PrefsweepError
from harness.keys import canonical_json, digest
from harness.store import Artifact

_OWN_FIELDS = {"engine", "model", "revision", "prompt", "order"}
"""Of a judge's spec: those with a column of their own."""

_ANSWERING = ("dtype", "max_new_tokens", "max_prompt_tokens", "seed", "temperature", "top_p")


def comparable_facts(
    verdicts: Artifact | None, answers: Artifact | None, references: str | None, trained: Artifact | None
) -> dict[str, str | None]:
    """The `COMPARABLE` columns of one result, from the manifests; None where it is not done or nothing is stated.

    `references` is the key of the artifact that was judged against.
    """
    facts: dict[str, str | None] = dict.fromkeys(COMPARABLE)
    if verdicts is None or answers is None or references is None:
        return facts
    spec, measures = verdicts.manifest.spec, verdicts.manifest.measures
    rest = {name: value for name, value in spec.items() if name not in _OWN_FIELDS}
    served = measures.get("served_models")
    return facts | {
        "judge_model": plain(spec.get("model") or spec.get("engine")),
        "judge_revision": plain(spec.get("revision")) or "none",
        "judge_prompt": plain(spec.get("prompt")) or "none",
        "judge_order": plain(spec.get("order")) or "both",
        "judge_settings": canonical_json({"stage_version": verdicts.manifest.stage_version, **rest}),
        "judge_served": ", ".join(sorted(served)) if served else None,
        "references_hash": verdicts.manifest.made_from.get(references) or references,
        "instructions_hash": plain(answers.manifest.spec.get("instructions")) or None,
        "decoding_settings": _decoding(answers.manifest.spec),
        "versions": _versions([a for a in (trained, answers, verdicts) if a is not None], measures),
    }


def check_comparable(cells: pd.DataFrame, what: str) -> None:
    """Raise PrefsweepError where done `cells` differ in a `COMPARABLE` column, naming it; `what` they were for."""
    if differing := differences(cells):
        name, values = next(iter(differing.items()))
        others = f" (and {', '.join(list(differing)[1:])})" if len(differing) > 1 else ""
        raise PrefsweepError(
            f"{what}: the results are not comparable: {name} ({COMPARABLE[name]}) differs{others}: "
            f"{' / '.join(_apart(values))}"
        )


def differences(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The `COMPARABLE` columns in which done `cells` state different things, with what they state."""
    done = cells.loc[cells["status"] == "done", list(COMPARABLE)]
    stated = {name: [v for v in dict.fromkeys(map(plain, done[name].tolist())) if v] for name in COMPARABLE}
    return {name: values for name, values in stated.items() if len(values) > 1}


def comparable_parts(cells: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """`cells` apart by what they must have in common, each part with its values of the columns that differ.

    A cell that states nothing, such as one that is not done, stands in every part: nothing speaks against it.
    """
    differing = differences(cells)
    if not differing:
        yield {}, cells
        return
    varying = list(differing)
    shown = {name: dict(zip(values, _apart(values), strict=True)) for name, values in differing.items()}
    stated = [tuple(plain(cell[name]) for name in varying) for _, cell in cells.iterrows()]
    groups: list[tuple[str, ...]] = []
    for values in sorted(dict.fromkeys(stated), key=lambda values: values.count("")):
        if any(values) and not any(_agree(values, group) for group in groups):
            groups.append(values)
    for group in groups:
        part = cells[[_agree(values, group) for values in stated]]
        yield {name: shown[name][value] for name, value in zip(varying, group, strict=True) if value}, part


def _agree(values: Sequence[str], group: Sequence[str]) -> bool:
    return all(own in {"", other} for own, other in zip(values, group, strict=True))


def _apart(values: Sequence[str]) -> list[str]:
    """Several different values in few words: of lists what not all have, of long ones a beginning and a hash."""
    lists = [value.split(", ") for value in values]
    common = set.intersection(*map(set, lists))
    left = [", ".join(entry for entry in entries if entry not in common) for entries in lists]
    short = left if all(left) else list(values)
    return [text if len(text) <= 60 else f"{text[:48]}… #{digest(text)[:6]}" for text in short]


def _decoding(spec: Mapping[str, object]) -> str | None:
    """How answers were decoded; None for imported ones, which do not say. A seed counts where it is used."""
    if "max_new_tokens" not in spec:
        return None
    greedy = spec.get("temperature") == 0
    left_out = {"seed", "top_p"} if greedy else set()
    return canonical_json({name: spec[name] for name in _ANSWERING if name in spec and name not in left_out})


def _versions(artifacts: Sequence[Artifact], measures: Mapping[str, object]) -> str:
    """Packages with their versions in training, answering and judging; several versions where these differ."""
    seen: dict[str, dict[str, None]] = {}
    for artifact in artifacts:
        for package, version in artifact.manifest.provenance["versions"].items():
            seen.setdefault(package, {})[str(version)] = None
    judging = measures.get("judge_versions")
    if isinstance(judging, Mapping):
        for package, version in judging.items():
            seen.setdefault(str(package), {})[str(version)] = None
    return ", ".join(f"{package} {'+'.join(versions)}" for package, versions in sorted(seen.items()))
