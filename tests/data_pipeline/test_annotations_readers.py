"""Every reader on a small file of our own making, and on that file with one thing wrong."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.annotations import READERS, AnnotationError, VideoAnnotations
from data_pipeline.source import Rejected

FIXTURES = Path(__file__).parent / "fixtures" / "annotations"

FILES: dict[str, tuple[str, ...]] = {
    "action_genome": ("action_genome.json", "action_genome_frames.json"),
    "activitynet_captions": ("activitynet_captions.json",),
    "charades_sta": ("charades_sta.txt", "charades_sta.json", "charades_durations.csv"),
    "coin": ("coin.json",),
    "ego4d_goalstep": ("ego4d_goalstep.json",),
    "ego4d_narrations": ("ego4d_narrations.json",),
    "ego4d_narrations_live": ("ego4d_narrations_live.json",),
    "howto100m": ("howto100m.json",),
    "llava_video_178k": ("llava_video.json",),
    "mtss": ("mtss",),
    "omnimmi_ap": ("omnimmi_ap.json",),
    "omnimmi_md": ("omnimmi_md.json",),
    "omnimmi_pa": ("omnimmi_pa.json", "qvhighlights.jsonl"),
    "omnimmi_pt": ("omnimmi_pt.json",),
    "omnimmi_sg": ("omnimmi_sg.json",),
    "omnimmi_si": ("omnimmi_si.json",),
    "pvsg": ("pvsg.json",),
    "qvhighlights": ("qvhighlights.jsonl",),
    "videoespresso": ("videoespresso.json", "videoespresso_tays.jsonl"),
    "vidor": ("vidor",),
    "vidvrd": ("vidor/made_up.json",),
    "youcook2": ("youcook2.json",),
}


def read(name: str, *files: Path) -> tuple[list[VideoAnnotations], list[Rejected]]:
    found = list(READERS[name](*(files or [FIXTURES / file for file in FILES[name]])))
    return (
        [one for one in found if isinstance(one, VideoAnnotations)],
        [one for one in found if isinstance(one, Rejected)],
    )


def spans(video: VideoAnnotations) -> list[tuple[float, float, str]]:
    return [(one.start, one.end, one.text) for one in video.annotations]


def triples(video: VideoAnnotations) -> list[tuple[float, float, str, str, str]]:
    return [
        (one.start, one.end, one.triple.head.name, one.triple.relation, one.triple.tail.name)
        for one in video.annotations
        if one.triple is not None
    ]


def test_every_reader_has_a_file_here() -> None:
    assert set(FILES) == set(READERS)


@pytest.mark.parametrize("name", READERS)
def test_ids_are_unique_and_datasets_named(name: str) -> None:
    videos, _ = read(name)
    assert videos
    for video in videos:
        assert video.dataset == name and video.licence and video.video_id
        ids = [one.source_id for one in video.annotations]
        assert len(ids) == len(set(ids))
        assert all(one.video_id == video.video_id for one in video.annotations)
    assert len({(video.video_id, video.part) for video in videos}) == len(videos)


def test_activitynet_keeps_order_spaces_and_spans_as_written() -> None:
    [video], _ = read("activitynet_captions")
    assert video.duration == 20.0
    assert spans(video) == [
        (0.5, 20.01, "A man walks into a workshop."),
        (12.0, 15.5, " He puts the hammer down."),
        (3.0, 6.0, "  He picks up a hammer ."),
    ]


def test_youcook2_rejects_a_video_without_sentences() -> None:
    [video], [rejected] = read("youcook2")
    assert spans(video)[0] == (9.0, 12.0, "spread butter on the bread")
    assert video.annotations[0].actor is not None and video.annotations[0].actor.name == "person"
    assert (rejected.item, rejected.reason) == ("youcook2-made-up-yc2", "no labels")


def test_coin_steps_of_one_label_stay_apart() -> None:
    [video], _ = read("coin")
    assert [one.source_id for one in video.annotations] == [
        "made-up-co1/0-212",
        "made-up-co1/1-213",
        "made-up-co1/2-212",
    ]
    assert video.meta["task"] == "ChangeBulb" and video.licence == "CC BY-NC 4.0"


def test_goalstep_has_two_levels_and_takes_a_step_without_relevance() -> None:
    [video], _ = read("ego4d_goalstep")
    assert (video.start, video.duration) == (10.0, 100.0)
    assert [(one.level, one.parent) for one in video.annotations] == [
        (0, None), (0, None), (1, "uid-g/1"), (1, "uid-g/1"), (0, None),
    ]  # fmt: skip
    assert {one.kind for one in video.annotations} == {"span"}


def test_narrations_read_tags_and_keep_passes_apart() -> None:
    videos, [rejected] = read("ego4d_narrations")
    assert [(one.video_id, one.part) for one in videos] == [
        ("uid-a", "narration_pass_1"),
        ("uid-a", "narration_pass_2"),
    ]
    summary, wearer, other, unsure = videos[0].annotations
    assert (summary.kind, summary.level, summary.text) == ("span", 0, "tidied the room")
    assert (wearer.kind, wearer.level, wearer.start, wearer.end, wearer.text) == ("point", 1, 1.5, 1.5, "picks a cup")
    assert wearer.actor is not None and wearer.actor.name == "camera wearer"
    assert other.actor is not None and (other.actor.name, other.text) == ("man x", "opens the door")
    assert "#unsure" in unsure.text
    assert rejected.item == "ego4d_narrations-uid-b" and videos[0].duration is None


def test_live_narrations_are_one_source_an_annotator() -> None:
    videos, _ = read("ego4d_narrations_live")
    assert [(video.part, len(video.annotations)) for video in videos] == [("x", 2), ("y", 1)]


def test_qvhighlights_groups_by_clip_and_rejects_what_has_no_windows() -> None:
    [video], [rejected] = read("qvhighlights")
    assert spans(video) == [
        (12.0, 16.0, "A dog swims in a lake."),
        (2.0, 4.0, "A dog swims in a lake."),
        (0.0, 2.0, "People watch the dog"),
    ]
    assert rejected.reason == "no labels"


def test_charades_reads_lines_rows_and_durations() -> None:
    videos, _ = read("charades_sta")
    assert [(video.video_id, video.duration) for video in videos] == [("MADE1", 31.5), ("MADE2", 9.0), ("MADE3", None)]
    light, dog = videos[0].annotations
    assert light.actor is not None and (light.start, light.end, light.text) == (24.3, 30.4, "turn a light on")
    assert dog.actor is None and dog.text == "a dog sleeps on the sofa"
    assert spans(videos[2]) == [(2.5, 6.25, "opens a book")]


def test_howto100m_is_streamed(tmp_path: Path) -> None:
    videos, _ = read("howto100m")
    assert spans(videos[0]) == [(0.0, 3.0, "says: today we bake"), (2.5, 5.0, "says:   a small cake "), (4.0, 4.0, "")]
    # The first video is out before the broken end of the file is read.
    broken = tmp_path / "broken.json"
    lines = ", ".join('"v": {"start": [0.0], "end": [1.0], "text": ["x"]}' for _ in range(5000))
    broken.write_text("{" + lines + ', "w": oops', encoding="utf-8")
    videos_of = READERS["howto100m"](broken)
    assert isinstance(next(videos_of), VideoAnnotations)
    with pytest.raises(AnnotationError, match="broken.json"):
        list(videos_of)


def test_vidor_ends_before_end_fid_and_joins_pieces() -> None:
    [video], _ = read("vidor")
    assert (video.duration, video.file) == (10.0, "0001/9001.mp4")
    assert triples(video) == [
        (0.0, 4.5, "adult", "hold", "dog"),
        (6.0, 7.0, "adult", "hold", "dog"),
        (2.0, 10.0, "adult", "in_front_of", "dog"),
        (0.0, 1.0, "dog", "watch", "dog"),
    ]
    assert {one.kind for one in video.annotations} == {"state"}
    assert {one.triple.head.kind for one in video.annotations if one.triple} == {"person", "animal"}


def test_pvsg_spans_hold_both_frames() -> None:
    [video], _ = read("pvsg")
    assert triples(video) == [
        (0.0, 2.0, "adult", "holding", "cup"),
        (4.0, 6.0, "adult", "holding", "cup"),
        (2.0, 4.0, "cup", "on", "floor"),
    ]
    assert video.meta["source"] == "vidor" and video.file == "vidor/videos/0001_1.mp4"


def test_action_genome_joins_sampled_frames_and_turns_spatial_relations() -> None:
    [video], _ = read("action_genome")
    assert triples(video) == [
        (1.0, 1.0, "person", "looking_at", "cup or glass or bottle"),
        (1.0, 2.0, "cup or glass or bottle", "in_front_of", "person"),
        (1.0, 2.0, "person", "holding", "cup or glass or bottle"),
        (4.0, 4.0, "person", "holding", "cup or glass or bottle"),
        (2.0, 2.0, "person", "drinking_from", "cup or glass or bottle"),
        (3.0, 3.0, "person", "not_looking_at", "table"),
        (3.0, 3.0, "table", "beneath", "person"),
        (3.0, 3.0, "person", "not_contacting", "table"),
    ]


def test_action_genome_opens_no_pickle(tmp_path: Path) -> None:
    trap, mark = tmp_path / "object_bbox_and_relationship.pkl", tmp_path / "ran"
    trap.write_bytes(b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    with pytest.raises(AnnotationError, match="convert it to JSON"):
        list(READERS["action_genome"](trap, FIXTURES / "action_genome_frames.json"))
    assert not mark.exists()


def test_llava_turns_are_exchanges_without_times() -> None:
    [video], _ = read("llava_video_178k")
    assert (video.video_id, video.part, video.file) == ("MADE5", "row-1", "academic_source/Charades/MADE5.mp4")
    assert [(one.question, one.answer, one.time) for one in video.exchanges] == [
        ("What is on the table?", "A cup.", None),
        ("Which colour is it?", "Red.", None),
    ]


def test_videoespresso_answers_by_letter_even_if_two_options_read_the_same() -> None:
    videos, _ = read("videoespresso")
    rain, fall, tays = (video.exchanges[0] for video in videos)
    assert rain.options == ("It rains", "A red light", "It rains") and rain.answer == "It rains"
    assert fall.answer == "A fall" and spans(videos[1]) == [(1.5, 1.5, "A boy runs."), (4.0, 4.0, "The boy trips.")]
    assert tays.answer == "The girl." and videos[2].duration == 12.5


def test_mtss_names_references_and_rejects_a_dangling_id() -> None:
    [video], [rejected] = read("mtss")
    assert (rejected.item, rejected.reason) == ("mtss-zz_dangling", "dangling id") and "PERSON_9" in rejected.detail
    shot, appears, line, sound = video.annotations
    assert shot.text == "In scene 1, person 1 picks up the phone." and (shot.start, shot.end) == (0.0, 3.4)
    assert triples(video) == [(0.0, 3.4, "person 1", "appear in", "scene 1")] and appears.triple is not None
    assert line.actor is not None and (line.actor.name, line.text, line.level) == ("person 1", "says: Good morning!", 1)
    assert sound.text == "a door slams"


def test_omnimmi_asks_in_the_middle_and_writes_the_answer_before() -> None:
    [grounding], _ = read("omnimmi_sg")
    first, backwards = grounding.exchanges
    assert (first.time, first.evidence) == (6.0, ((4.0, 6.0),))
    assert backwards.evidence == ((12.0, 9.0),)  # left as it is, for to_source to reject
    chained, dangling = read("omnimmi_md")[0]
    assert chained.exchanges[1].question == "What is the first step of Make tea?"
    assert "##ANSWER##" in dangling.exchanges[0].question


def test_omnimmi_alerts_have_windows_and_durations_of_qvhighlights() -> None:
    alert, unread = read("omnimmi_pa")[0]
    exchange = alert.exchanges[0]
    assert alert.duration == 20.0 and alert.video_id == "madeupclip1_0.0_20.0"
    assert (exchange.time, exchange.wait, exchange.window) == (0.0, 12.0, (12.0, 16.0))
    assert exchange.answer == "A dog in the lake." and spans(alert) == [(12.0, 16.0, "a dog in the lake")]
    assert unread.annotations == () and unread.exchanges[0].answer == "This is it."


def test_omnimmi_other_tasks() -> None:
    [prediction] = read("omnimmi_ap")[0]
    assert prediction.exchanges[0].options == ("cut bread", "stir soup")
    [turns] = read("omnimmi_pt")[0]
    assert [one.answer for one in turns.exchanges] == ["A clerk.", ""]
    [speaker] = read("omnimmi_si")[0]
    assert speaker.exchanges[0].time == 22.08


# ---- One thing wrong.

Path_ = tuple[str | int, ...]

# reader, file, where, new value (None: delete), what the error names
FAULTS: list[tuple[str, str, Path_, Any, str]] = [
    ("activitynet_captions", "activitynet_captions.json", ("v_made_up_one", "duration"), None, "duration"),
    ("activitynet_captions", "activitynet_captions.json", ("v_made_up_one", "fps"), 25, "fps"),
    ("activitynet_captions", "activitynet_captions.json", ("v_made_up_one", "sentences"), ["one"], "timestamps"),
    ("activitynet_captions", "activitynet_captions.json", ("v_made_up_one", "timestamps", 1), [1], r"timestamps\[1\]"),
    ("youcook2", "youcook2.json", ("database", "made-up-yc1", "annotations", 1, "segment"), "3-4", "segment"),
    ("youcook2", "youcook2.json", ("database", "made-up-yc1", "subset"), None, "made-up-yc1.*subset"),
    ("coin", "coin.json", ("database", "made-up-co1", "annotation", 1, "label"), 7, r"annotation\[1\].*label"),
    ("coin", "coin.json", ("database", "made-up-co1", "class"), None, "made-up-co1.*class"),
    ("ego4d_goalstep", "ego4d_goalstep.json", ("videos", 0, "segments", 0, "end_time"), None, r"uid-g.*end_time"),
    ("ego4d_goalstep", "ego4d_goalstep.json", ("videos", 0, "segments", 0, "mood"), "x", r"segments\[0\].*mood"),
    ("ego4d_goalstep", "ego4d_goalstep.json", ("videos", 0, "segments", 0, "is_relevant"), "very", "is_relevant"),
    ("ego4d_goalstep", "ego4d_goalstep.json", ("videos", 0, "start_time"), "10", "start_time"),
    ("ego4d_narrations", "ego4d_narrations.json", ("uid-a", "narration_pass_3"), {}, "narration_pass_3"),
    (
        "ego4d_narrations", "ego4d_narrations.json",
        ("uid-a", "narration_pass_1", "narrations", 1, "timestamp_sec"), None, r"narrations\[1\].*timestamp_sec",
    ),
    ("ego4d_narrations_live", "ego4d_narrations_live.json", ("videos", "uid-a", "narrations", 0, "text"), 3, "text"),
    ("charades_sta", "charades_sta.json", (0, "solution"), "<answer>2.5 to 6.25</answer>", "solution"),
    ("charades_sta", "charades_sta.json", (0, "problem_type"), "regression", "problem_type"),
    ("howto100m", "howto100m.json", ("madeup-ht1", "end"), [1.0], "madeup-ht1.*end"),
    ("howto100m", "howto100m.json", ("madeup-ht1", "text", 1), 5, "text"),
    ("vidor", "vidor/made_up.json", ("relation_instances", 0, "object_tid"), 77, "object_tid: 77"),
    ("vidor", "vidor/made_up.json", ("fps",), 0, "fps"),
    ("vidor", "vidor/made_up.json", ("action_instances",), [], "action_instances"),
    ("pvsg", "pvsg.json", ("data", 0, "relations", 0, 1), 9, r"relations\[0\]"),
    ("pvsg", "pvsg.json", ("split", "vidor", "train"), [], "0001_1.*split"),
    ("llava_video_178k", "llava_video.json", (0, "conversations", 1, "from"), "human", "alternate"),
    ("llava_video_178k", "llava_video.json", (0, "video"), None, "video"),
    ("videoespresso", "videoespresso.json", (0, "correct_answer"), "(D)", "correct_answer"),
    ("videoespresso", "videoespresso.json", (1, "core_frames_timestamps"), [1.5], "core_frames_timestamps"),
    ("mtss", "mtss/made_up.json", ("shots", 0, "time_range"), [0.0], "time_range"),
    ("mtss", "mtss/made_up.json", ("events", 0, "type"), "smell", "type"),
    ("omnimmi_sg", "omnimmi_sg.json", (0, "qa", 0, "timestamp"), "4 to 8", "timestamp"),
    ("omnimmi_ap", "omnimmi_ap.json", (0, "answer"), "sing", "answer"),
    ("omnimmi_pa", "omnimmi_pa.json", (0, "answer"), 12, "answer"),
    ("omnimmi_pt", "omnimmi_pt.json", (0, "conversation", 0, "assistant"), None, "assistant"),
    ("omnimmi_si", "omnimmi_si.json", (0, "timestamp"), "0:22", "timestamp"),
    ("omnimmi_si", "omnimmi_si.json", (0, "video"), None, "video"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "where", "value", "message"), FAULTS)
def test_a_wrong_field_is_named(name: str, file: str, where: Path_, value: Any, message: str, tmp_path: Path) -> None:
    record = json.loads((FIXTURES / file).read_text(encoding="utf-8"))
    changed = copy.deepcopy(record)
    holder = changed
    for step in where[:-1]:
        holder = holder[step]
    if value is None:
        del holder[where[-1]]
    else:
        holder[where[-1]] = value
    path = tmp_path / Path(file).name
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(AnnotationError, match=message) as caught:
        read(name, path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("qvhighlights", "x.jsonl", '{"qid": 1}\n', "x.jsonl:1: query"),
        ("qvhighlights", "x.jsonl", '{"qid": 1,\n', "x.jsonl:1.*not JSON"),
        ("charades_sta", "x.txt", "MADE1 24.3##person sits\n", "x.txt:1"),
        ("charades_sta", "x.csv", "id,seconds\nA,3\n", "length"),
        ("charades_sta", "x.yaml", "", "must end in"),
        ("ego4d_goalstep", "x.json", "[1, 2", "not a JSON file"),
        ("activitynet_captions", "x.json", '{"v": {"duration": NaN}}', "NaN"),
        ("activitynet_captions", "x.json", "[]", "must be an object"),
        ("howto100m", "x.json", "[1]", "must begin with '{'"),
        ("llava_video_178k", "x.json", '{"id": 1}', r"must begin with '\['"),
        ("llava_video_178k", "x.json", '[{"id": 1}]', "conversations"),
        ("action_genome", "x.json", "{}", "give two files"),
    ],
)
def test_a_wrong_file_is_named(name: str, file: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(AnnotationError, match=message):
        read(name, tmp_path / file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"saliency_scores": [[1, 1, 2]]}, "saliency_scores"),
        ({"saliency_scores": [[1, 1, 5]] * 3}, "from 0 to 4"),
        ({"relevant_clip_ids": [6, 7, 2]}, "relevant_clip_ids"),
        ({"duration": 18}, "several"),
    ],
)
def test_qvhighlights_checks_scores_clips_and_durations(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    lines = (FIXTURES / "qvhighlights.jsonl").read_text(encoding="utf-8").split("\n")
    lines[0] = json.dumps(json.loads(lines[0]) | change)
    (tmp_path / "x.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(AnnotationError, match=message):
        read("qvhighlights", tmp_path / "x.jsonl")


def test_action_genome_wants_the_rate_of_every_video(tmp_path: Path) -> None:
    (tmp_path / "frames.json").write_text("{}", encoding="utf-8")
    with pytest.raises(AnnotationError, match="MADE4.mp4: missing"):
        read("action_genome", FIXTURES / "action_genome.json", tmp_path / "frames.json")


def test_a_folder_is_read_in_order_of_path(tmp_path: Path) -> None:
    for name in ("b", "a"):
        shutil.copy(FIXTURES / "vidor" / "made_up.json", tmp_path / f"{name}.json")
    broken = json.loads((tmp_path / "b.json").read_text(encoding="utf-8")) | {"fps": 0}
    (tmp_path / "b.json").write_text(json.dumps(broken), encoding="utf-8")
    videos = READERS["vidor"](tmp_path)
    assert isinstance(next(videos), VideoAnnotations)
    with pytest.raises(AnnotationError, match="b.json"):
        next(videos)
