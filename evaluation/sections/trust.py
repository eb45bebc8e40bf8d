"""What a figure rests on: the causality audit, failures and other reasons, what was read from the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.figures import MISSING
from evaluation.sections.blocks import Block, Folded, Table, Text

LISTED = 50  # failures that are listed; report.json holds all


def audit(report: Mapping[str, Any]) -> list[Block]:
    """Whether anything that was said depends on what came later."""
    by_arm = report.get("audit") or {}
    if not by_arm:
        return []
    rows = [
        [
            arm,
            "none" if found["causal"] else f"{len(found['leaks'])} LEAKS",
            *(str(found[key]) for key in ("compared", "runs", "moved", "samples")),
        ]
        for arm, found in by_arm.items()
    ]
    head = ["", "leaks", "outputs compared", "futures tried", "in which later outputs changed", "samples"]
    leaks = [leak["message"] for found in by_arm.values() for leak in found["leaks"]]
    return [
        Text(
            "Samples were watched again with everything after a moment changed or cut off: what was said up to that "
            "moment must stay, bit for bit (texts, token ids, scores)."
        ),
        *(Text(f"LEAK: {message}", bad=True) for message in leaks[:LISTED]),
        Table("Causality audit", head, rows),
    ]


def failures(report: Mapping[str, Any]) -> list[Block]:
    """Why queries are not right, and the samples that failed."""
    reasons = report.get("reasons") or {}
    made: list[Block] = []
    if reasons:
        names = list(dict.fromkeys(name for of_job in reasons.values() for name in of_job))
        rows = [[job, *(str(of_job.get(name, 0)) for name in names)] for job, of_job in reasons.items()]
        table = Table("Queries without full credit, by reason", ["", *names], rows)
        made.append(table if len(rows) <= 8 else Folded("Queries without full credit, by reason", [table]))
    failed = [
        [job, sample, why] for job, of_job in (report.get("failures") or {}).items() for sample, why in of_job.items()
    ]
    if failed:
        made.append(Text(f"{len(failed)} samples failed; their queries count as wrong.", bad=True))
        title = "Failed samples" if len(failed) <= LISTED else f"Failed samples, the first {LISTED}"
        made.append(Table(title, ["job", "sample", "why"], failed[:LISTED]))
    elif reasons:
        made.append(Text("No sample failed."))
    return made


def manifests(report: Mapping[str, Any]) -> list[Block]:
    """What the predictions were made with, and which of them were there already."""
    made: list[Block] = []
    samples = report.get("samples")
    if samples:
        made.append(
            Text(
                f"{samples['n']} samples of {samples['videos']} videos, {samples['queries']} queries; hash of the "
                f"samples {samples['hash']}."
            )
        )
    definitions = report.get("definitions") or {}
    if definitions:
        rows = [[name, told] for name, told in definitions.items()]
        made.append(Table("What the figures are", ["figure", "definition"], rows))
    rows = []
    for job, found in (report.get("cache") or {}).items():
        manifest = (report.get("manifests") or {}).get(job) or {}
        model = (manifest.get("model") or {}).get("weights and config", MISSING)
        device = str(manifest.get("device", MISSING))
        rows.append([job, model, device, str(found["made"]), str(found["reused"]), "; ".join(found["notes"]) or "none"])
    if rows:
        head = ["job", "model hash", "device", "samples watched", "read from the cache", "notes"]
        made.append(Folded("Predictions and their cache", [Table("Predictions and their cache", head, rows)]))
    return made
