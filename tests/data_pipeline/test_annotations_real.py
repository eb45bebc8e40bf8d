"""The readers on the real files that lie beside the repository; skipped where they do not."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.annotations import READERS, VideoAnnotations, convert
from data_pipeline.annotations.yields import tabulate
from data_pipeline.source import Source

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = {
    "activitynet_captions": ["annotations/activitynet_captions_val1_sample.json"],
    "charades_sta": ["annotations/charades_sta.json"],
    "ego4d_goalstep": ["annotations/ego4d_goalstep_valid.json"],
    "qvhighlights": ["annotations/qvhighlights/highlight_val_release.jsonl"],
    "omnimmi_sg": ["omnimmi/dynamic_state_grounding.json"],
    "omnimmi_md": ["omnimmi/multiturn_dependency_reasoning.json"],
    "omnimmi_ap": ["omnimmi/action_prediction.json"],
    "omnimmi_pa": ["omnimmi/proactive_alerting.json", "annotations/qvhighlights/highlight_val_release.jsonl"],
    "omnimmi_pt": ["omnimmi/proactive_turntaking.json"],
    "omnimmi_si": ["omnimmi/speaker_identification.json"],
}
# reader: sources in, out; annotations in, out; exchanges in, out
EXPECTED = {
    "activitynet_captions": (6, 6, 29, 29, 0, 0),
    "charades_sta": (1334, 1334, 3720, 3688, 0, 0),
    "ego4d_goalstep": (134, 134, 7696, 7696, 0, 0),
    "qvhighlights": (1519, 1519, 2803, 2803, 0, 0),
    "omnimmi_sg": (300, 300, 0, 0, 704, 703),
    "omnimmi_md": (300, 300, 0, 0, 786, 785),
    "omnimmi_ap": (200, 0, 0, 0, 200, 0),
    "omnimmi_pa": (200, 200, 190, 190, 200, 200),
    "omnimmi_pt": (200, 0, 0, 0, 872, 0),
    "omnimmi_si": (78, 78, 0, 0, 200, 200),
}


def paths(name: str) -> list[Path]:
    found = [DATA / file for file in FILES[name]]
    for path in found:
        if not path.exists():
            pytest.skip(f"no real file {path.relative_to(DATA)}: the annotations are not part of the repository")
    return found


def videos(name: str) -> list[VideoAnnotations]:
    return [one for one in READERS[name](*paths(name)) if isinstance(one, VideoAnnotations)]


@pytest.mark.parametrize("name", FILES)
def test_yields_of_a_real_file(name: str) -> None:
    [row] = tabulate({name: paths(name)}, segment_seconds=2.0, videos="v", unknown_duration="last_annotation")
    found = (row.sources, row.annotations, row.exchanges)
    assert tuple(count for part in found for count in (part.taken, part.made)) == EXPECTED[name]


@pytest.mark.parametrize("name", ["ego4d_goalstep", "charades_sta", "activitynet_captions"])
def test_clauses_of_a_real_file_are_clauses(name: str) -> None:
    """Lower case, one line, no full stop; not more than one in a hundred could not be inflected."""
    quoted = total = 0
    ids: Counter[str] = Counter()
    for annotated in videos(name):
        made = convert(annotated, segment_seconds=2.0, videos="v", unknown_duration="last_annotation").source
        assert isinstance(made, Source)
        ids[made.id] += 1
        for edge in made.graph.edges:
            assert edge.text == edge.text.lower().strip() and "  " not in edge.text and "\n" not in edge.text
            assert not edge.text.endswith(".")
            total, quoted = total + 1, quoted + ("is at this:" in edge.text)
    assert max(ids.values()) == 1
    assert quoted <= 0.01 * total * 3  # a `then` repeats the clauses of both of its ends


def test_goalstep_has_the_steps_of_the_reference() -> None:
    levels = Counter(one.level for annotated in videos("ego4d_goalstep") for one in annotated.annotations)
    assert levels == {0: 3349, 1: 4347}


def test_goalstep_graphs_show_nothing_of_later() -> None:
    """The graph as of t is that of the annotations known by t alone, in ids, names, order and texts."""
    for annotated in videos("ego4d_goalstep")[:20]:
        whole = convert(annotated, segment_seconds=2.0, videos="v").source
        assert whole is not None
        for part in (0.3, 0.7):
            time = part * whole.graph.duration
            early = {edge.source for edge in whole.graph.edges if edge.knowable_at <= time}
            known = tuple(one for one in annotated.annotations if one.source_id in early)
            if known:
                alone = convert(replace(annotated, annotations=known), segment_seconds=2.0, videos="v").source
                assert alone is not None and alone.graph.as_of(time) == whole.graph.as_of(time)


def test_activitynet_spans_overlap_out_of_order_with_leading_spaces() -> None:
    bike = {one.video_id: one for one in videos("activitynet_captions")}["v_D0pVkTEYQg8"]
    assert [one.start for one in bike.annotations] == [4.39, 4.17, 14.34]
    assert bike.annotations[1].text.startswith(" ")
    made = convert(bike, segment_seconds=2.0, videos="v").source
    assert made is not None and [edge.start for edge in made.graph.of("does")] == [4.17, 14.34, 4.39]


def test_alerts_are_asked_on_clips_of_qvhighlights_val() -> None:
    clips = {one.video_id for one in videos("qvhighlights")}
    alerts = videos("omnimmi_pa")
    assert {one.video_id for one in alerts} <= clips and len(alerts) == 200
    assert all(one.duration is not None for one in alerts)


def test_every_last_turn_of_turn_taking_expects_silence() -> None:
    """One turn in the middle has an empty answer, which is another thing."""
    found = Counter[str]()
    for annotated in videos("omnimmi_pt"):
        done = convert(annotated, segment_seconds=2.0, videos="v", durations={annotated.video_id: 60.0})
        found.update(done.exchanges.rejected)
        assert done.source is not None
    assert found == {"expects silence": 200, "empty answer": 1}
