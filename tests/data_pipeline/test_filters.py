"""Filters: planted faults are found by the filter meant for them, clean samples pass, and every count adds up."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from data_pipeline.builders import BUILDERS
from data_pipeline.builders.asking import Asking
from data_pipeline.filters import BenchmarkFile, EndpointGuesser, FilterSettings, Guesser, GuessSettings, apply
from data_pipeline.filters.apply import NOT_LEFT, WITH_SAMPLE, problems
from data_pipeline.filters.claims import false_claims, language, unknown
from data_pipeline.filters.decontamination import LAYOUTS, names, read_benchmarks
from data_pipeline.filters.form import interval, numbers
from data_pipeline.filters.words import holds, likeness, repeated, same, seconds, words
from data_pipeline.graph import Edge, make_graph
from data_pipeline.queries.kinds import KINDS
from data_pipeline.source import Source, SynthError
from data_pipeline.text.task import Task, TextRejected
from data_pipeline.text.templates import templates
from tests.data_pipeline.faults import FAULTS
from tests.data_pipeline.worlds import world_sources
from whilst.recipe import RecipeError, load_recipe
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video, validate

ALL = {kind: 1.0 for kind in KINDS}
FORMATS = {"open": 1.0, "choice": 1.0, "number": 1.0, "interval": 1.0}
WRITE = templates(0)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@cache
def sources(n: int = 25) -> list[Source]:
    return world_sources(n)


def told(builder: str, given: list[Source], **changes: object) -> list[tuple[Sample, Source]]:
    chosen = BUILDERS[builder]
    settings = replace(chosen.settings(), **changes)
    return [
        (chosen.tell(source, script, settings, WRITE, 0), source)
        for source in given
        for script in chosen.plan(source, settings, WRITE, 0).scripts
    ]


@cache
def mixed() -> list[tuple[Sample, Source]]:
    """Samples with thoughts and queries of all kinds and formats, plain and boxed."""
    asking = Asking(ALL, FORMATS)
    plain = told("vst", sources(), queries=6, asking=asking, answers="plain")
    return plain + told("vst", sources(), queries=6, asking=asking, answers="boxed")


# ---- Faults and clean samples.


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found(name: str) -> None:
    fault, planted = FAULTS[name], 0
    for sample, source in mixed():
        bad = fault.plant(sample, source)
        if bad is None:
            continue
        planted += 1
        validate(bad)  # else no filter would be needed
        found = {reason for reason, _ in problems(bad, source, FilterSettings())}
        assert found & set(fault.reasons), f"{bad.id}: found only {found or 'nothing'}"
        left = apply(bad, source, FilterSettings())
        assert left.sample is None or len(left.sample.queries()) < len(bad.queries())
        left.queries.check(bad.id)
    assert planted >= 3, f"{planted} samples had a place for it"


def test_at_least_twelve_kinds_of_fault() -> None:
    assert len(FAULTS) >= 12


def test_no_false_alarm_on_a_thousand_clean_samples() -> None:
    asking = Asking(ALL, FORMATS)
    without_forward = Asking({kind: 1.0 for kind in KINDS if kind != "forward"}, FORMATS)
    given = world_sources(50, seed=2)
    clean = list(mixed())
    clean += told("tww", given, stage=2, asking=without_forward)
    clean += told("tww", given, stage=3, asking=without_forward, rounds=(2, 4))
    clean += told("timechat_online", given, asking=asking)
    clean += told("live_dialogue", given, shortest=5.0)
    for builder in ("live_narration", "states", "tays", "text_stream", "world"):
        clean += told(builder, world_sources(60, seed=1) if builder in ("tays", "world") else given)
    assert len(clean) >= 1000
    alarms = [(sample.id, found) for sample, source in clean if (found := problems(sample, source, FilterSettings()))]
    assert alarms == []


def test_an_unchanged_sample_is_handed_on_as_it_is() -> None:
    sample, source = mixed()[0]
    left = apply(sample, source, FilterSettings())
    assert left.sample is sample and left.rejected == []
    assert (left.queries.taken, left.queries.made) == (len(sample.queries()),) * 2


# ---- What is left, and counts.


def test_a_bad_query_goes_with_its_replies_and_the_others_stay() -> None:
    sample, source = next(one for one in mixed() if len(one[0].queries()) > 2)
    bad = FAULTS["unfilled slot"].plant(sample, source)
    assert bad is not None
    gone = bad.queries()[0].id
    left = apply(bad, source, FilterSettings())
    assert left.sample is not None
    validate(left.sample)
    assert [query.id for query in left.sample.queries()] == [query.id for query in bad.queries()[1:]]
    assert not any(getattr(event, "query", None) == gone for event in left.sample.events)
    assert gone not in left.sample.meta["asks"] and gone not in left.sample.meta["answer_edges"]
    assert [(one.item, one.reason) for one in left.rejected] == [(f"{bad.id}/{gone}", "format: unfilled slot")]
    assert left.queries.rejected == {"format: unfilled slot": 1} and left.queries.made == len(bad.queries()) - 1


def test_a_sample_without_its_last_query_goes() -> None:
    sample, source = told("vst", sources()[:1])[0]
    bad = FAULTS["unfilled slot"].plant(sample, source)
    left = apply(bad, source, FilterSettings())
    assert left.sample is None
    assert [(one.item, one.reason) for one in left.rejected][-1] == (sample.id, NOT_LEFT)
    left.queries.check("queries")


def test_a_bad_thought_takes_the_sample_and_counts_its_queries() -> None:
    sample, source = mixed()[0]
    bad = FAULTS["seconds in a thought"].plant(sample, source)
    left = apply(bad, source, FilterSettings())
    assert left.sample is None
    assert left.queries.rejected == {WITH_SAMPLE: len(sample.queries())}
    assert left.rejected[-1].item == sample.id and left.rejected[-1].reason == "seconds: in a thought"


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("seconds in a thought", {"seconds": False}),
        ("thought missing", {"thoughts": False}),
        ("future entity in a thought", {"grounding": False}),
        ("thought turns in circles", {"repetition": None}),
        ("thought too long", {"length": None}),
        ("count off by one", {"consistency": False}),
        ("unfilled slot", {"format": False}),
        ("answer in the question", {"leakage": False}),
    ],
)
def test_a_filter_can_be_switched_off(name: str, off: dict[str, object]) -> None:
    settings = replace(FilterSettings(), **off)
    for sample, source in mixed():
        bad = FAULTS[name].plant(sample, source)
        if bad is not None:
            found = {reason for reason, _ in problems(bad, source, settings)}
            assert not found & set(FAULTS[name].reasons)


def test_settings_are_read_from_yaml_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "filters.yaml"
    path.write_text(
        "repetition: {share: 0.3}\nlength: null\nguesser: {confidence: 0.8}\n"
        "benchmarks: [{layout: ovo_bench, path: a.json}]\n"
    )
    settings = load_recipe(path, FilterSettings)
    assert settings.repetition.share == 0.3 and settings.length is None
    assert settings.guesser.confidence == 0.8 and settings.benchmarks == (BenchmarkFile("ovo_bench", "a.json"),)
    path.write_text("repetition: {share: 1.5}\n")
    with pytest.raises(RecipeError, match="share"):
        load_recipe(path, FilterSettings)
    with pytest.raises(ValueError, match="videos"):
        GuessSettings(support=50, videos=20)


def test_what_settings_want_must_be_given() -> None:
    sample, source = mixed()[0]
    with pytest.raises(SynthError, match="guesser"):
        apply(sample, source, FilterSettings(guesser=GuessSettings()))
    with pytest.raises(SynthError, match="benchmarks"):
        apply(sample, source, FilterSettings(benchmarks=(BenchmarkFile("ids", "x"),)))
    with pytest.raises(SynthError, match="meta.source"):
        apply(sample, sources()[1], FilterSettings())


# ---- Words and claims.


def test_words() -> None:
    assert words("The Red-circle's 1.5 s, in-2!") == ("the", "red", "circle's", "1.5", "s", "in", "2")
    assert same(" Flour. ", "flour") and not same("+", "-") and same("+", " +")
    assert holds(words("is it the red box lid"), words("box lid")) and not holds(words("boxes"), words("box"))
    assert repeated(words("a b a b a b"), 2) == pytest.approx(0.6) and repeated((), 2) == 0.0
    assert likeness((), ()) == 1.0 and likeness(("a",), ("b",)) == 0.0


def test_seconds_are_times_and_not_ordinals() -> None:
    assert seconds("at 3.5 seconds, 12s and 1:05") == [3.5, 12.0, 65.0]
    assert seconds("the second one of 3 squares; cell 3 sits") == []


def test_numbers_and_intervals() -> None:
    assert numbers("It has happened three times") == [3] and numbers("twice") == [2] and numbers("often") == []
    assert interval("from 12.0 to 15.5 seconds") == (12.0, 15.5)
    assert interval("at 12.0 seconds") is None and interval("1 2 3") is None


def test_names_are_read_as_the_longest_that_stands_there() -> None:
    nodes = [("s", "star", "star"), ("b", "colour", "blue"), ("q", "object", "blue square"), ("x", "container", "box")]
    edges = [
        Edge("e0", "s", "shows", "b", 0.0, 1.0, "state", 1.0, "the star is blue"),
        Edge("e1", "q", "in", "x", 4.0, 5.0, "span", 5.0, "the blue square goes into the box"),
    ]
    spoken = language(make_graph("g", 10.0, nodes, edges))
    assert unknown("The star is blue.", 1.0, spoken) == []
    # `blue` is known, the blue square is not: a known name inside it must not hide it.
    assert unknown("There is a blue square.", 2.0, spoken) == ["blue square"]
    assert unknown("The blue square goes into the box.", 5.0, spoken) == []
    assert false_claims("The box goes into the blue square.", 5.0, spoken) == ["box goes into the blue square"]
    assert false_claims("The blue square goes into the box.", 5.0, spoken) == []
    assert false_claims("The blue square goes into the box.", 4.9, spoken) != []


# ---- The guesser.


def quiz(video: int, question: str, answer: str, options: tuple[str, ...] | None = None) -> tuple[Sample, Source]:
    """A sample of one query, which no filter but the guesser looks at."""
    source = replace(sources()[0], id=f"s{video}", video_id=f"v{video}", dataset="quiz")
    query = Query("q0", 1.0, question, options=options)
    meta = {"source": source.id, "dataset": "quiz", "video_id": source.video_id}
    events = (Segment(0.0, 1.0), Thought(1.0, "a"), query, Answer(1.0, answer, "q0"))
    return Sample(f"s{video}", Video("a.mp4", 0.0, 10.0), events, meta=meta), source


GUESS = GuessSettings(confidence=0.9, support=5, videos=12, keys=50)
ONLY_GUESS = FilterSettings(
    format=False, consistency=False, leakage=False, thoughts=False, grounding=False, seconds=False, length=None,
    repetition=None, guesser=GUESS,
)  # fmt: skip


def learned(samples: list[tuple[Sample, Source]], settings: GuessSettings = GUESS) -> Guesser:
    guesser = Guesser(settings)
    for sample, source in samples:
        guesser.learn(sample, source)
    return guesser


def test_a_question_that_always_has_one_answer_is_guessed() -> None:
    same_answer = [quiz(k, "What colour is the sky?", "Blue.") for k in range(8)]
    different = [quiz(k, "What is in the box?", f"thing {k}") for k in range(20, 28)]
    guesser = learned(same_answer + different)
    left = apply(*quiz(3, "What colour is the sky ?", "blue"), ONLY_GUESS, guesser)
    assert left.sample is None and left.rejected[0].reason == "guesser: answerable without the video"
    # The rare right answer stays: the text says blue, the video something else.
    assert apply(*quiz(40, "What colour is the sky?", "red"), ONLY_GUESS, guesser).sample is not None
    assert apply(*quiz(20, "What is in the box?", "thing 20"), ONLY_GUESS, guesser).sample is not None


def test_the_guesser_does_not_learn_from_the_video_that_it_is_asked_about() -> None:
    # One video asks the same thing many times; nothing is known of it from others.
    guesser = learned([quiz(1, "Who is it?", "Ann") for _ in range(50)])
    assert apply(*quiz(1, "Who is it?", "Ann"), ONLY_GUESS, guesser).sample is not None
    few = learned([quiz(k, "Who is it?", "Ann") for k in range(GUESS.support)])
    assert apply(*quiz(0, "Who is it?", "Ann"), ONLY_GUESS, few).sample is not None  # 4 others: too few
    assert apply(*quiz(9, "Who is it?", "Ann"), ONLY_GUESS, few).sample is None


def test_an_option_that_is_right_whenever_it_is_offered_is_guessed() -> None:
    options = ("unable to answer", "a cat", "a dog")
    always = learned([quiz(k, f"What is number {k}?", "A", options) for k in range(10)])
    found = always.guess(
        quiz(50, "A new one?", "A", options)[0], quiz(50, "A new one?", "A", options)[0].queries()[0], ""
    )
    assert found is not None and found.text == "unable to answer" and found.confidence == 1.0
    assert apply(*quiz(50, "A new one?", "unable to answer", options), ONLY_GUESS, always).sample is None
    turned = [options[k % 3 :] + options[: k % 3] for k in range(30)]
    balanced = learned([quiz(k, f"What is number {k}?", "ABC"[k // 3 % 3], turned[k]) for k in range(30)])
    assert apply(*quiz(70, "A new one?", "a cat", options), ONLY_GUESS, balanced).sample is not None


def test_counting_in_shards_and_merging_is_counting_at_once() -> None:
    # More texts and more videos than are kept, in another order: the same are kept, with the same counts.
    settings = GuessSettings(confidence=0.9, support=2, videos=6, keys=7)
    samples = [quiz(k % 23, f"Question {k % 19}?", f"answer {k % 4}") for k in range(1000)]
    whole = learned(samples, settings)
    parts = [learned(samples[k::3][::-1], settings) for k in range(3)]
    merged = Guesser(settings)
    for part in parts:
        merged.merge(Guesser.from_json(json.loads(json.dumps(part.to_json())), settings))
    assert merged.to_json() == whole.to_json()
    assert len(whole.votes["question"]) == 7
    assert all(len(videos) <= 6 for videos in whole.votes["question"].values())
    with pytest.raises(SynthError, match="other settings"):
        merged.merge(Guesser(GUESS))


def test_standing_queries_are_not_guessed() -> None:
    samples = [pair for pair in mixed() if any(query.window for query in pair[0].queries())]
    guesser = learned(samples * 1, replace(GUESS, support=1, videos=9))
    for sample, source in samples:
        left = apply(sample, source, replace(ONLY_GUESS, guesser=replace(GUESS, support=1, videos=9)), guesser)
        gone = {one.item.split("/")[-1] for one in left.rejected}
        assert not gone & {query.id for query in sample.queries() if query.window}


def test_an_endpoint_guesses_with_options_turned_round() -> None:
    def knows(task: Task) -> str:
        options = task.facts["options"]
        return "ABCD"[options.index("blue")] if "blue" in options else "no idea"

    def likes_a(task: Task) -> str:
        return "A"

    def broken(task: Task) -> str:
        raise TextRejected("not JSON", "?")

    settings = replace(ONLY_GUESS, guesser=replace(GUESS, mode="endpoint"))
    item = quiz(1, "What colour is the sky?", "B", ("red", "blue", "green"))
    assert apply(*item, settings, EndpointGuesser(knows, 3)).sample is None
    assert apply(*item, settings, EndpointGuesser(likes_a, 3)).sample is not None
    rejected = apply(*item, settings, EndpointGuesser(broken, 3))
    assert rejected.sample is None and rejected.rejected[0].reason == "guesser: not JSON"


# ---- Decontamination.


@pytest.mark.parametrize(
    ("written", "other"),
    [
        ("COIN/Hf2AisK1wHY.mp4", "Hf2AisK1wHY"),
        ("v_uqiMw7tQ1Cc", "videos/uqiMw7tQ1Cc.mkv"),
        ("NUsG9BgSes0_210.0_360.0", "https://www.youtube.com/watch?v=NUsG9BgSes0"),
        ("hirest/2nkCdciXDa8_55_423.mp4", "https://youtu.be/2nkCdciXDa8"),
        ("Ego4D/clips/ec4a3ba3-eb00-4aa8-9b41-36043ece98f7.mp4", "EC4A3BA3-eb00-4aa8-9b41-36043ece98f7"),
        ("864fa3d8-9b18-44cb-a8e9-9b40765e2d0c_811.mp4", "864fa3d8-9b18-44cb-a8e9-9b40765e2d0c"),
        ("star/OVFR0.mp4", "charades\\OVFR0.mp4"),
        ("MovieNet/tt0048028.mp4", "tt0048028"),
    ],
)
def test_one_video_written_in_two_ways(written: str, other: str) -> None:
    assert names(written, "one") & names(other, "other")


@pytest.mark.parametrize("common", ["42.mp4", "video_4017.mp4", "sample_348_real.mp4", "movie101_2.mp4", "clip_1"])
def test_ids_that_many_datasets_have_count_in_their_own_alone(common: str) -> None:
    assert not names(common, "one") & names(common, "other")
    assert names(f"One/{common}", "x") & names(common, "one")


def test_case_tells_youtube_ids_apart() -> None:
    assert not names("Hf2AisK1wHY", "a") & names("hf2aisk1why", "a")


def test_a_contaminated_source_gives_nothing(tmp_path: Path) -> None:
    sample, source = mixed()[0]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps([{"vid": "x4kKIm8WWOA_360.0_510.0", "qid": 1}]))
    lists = read_benchmarks(
        [BenchmarkFile("omnimmi", _rows(tmp_path, "video")), BenchmarkFile("qvhighlights", str(path))]
    )
    settings = FilterSettings(benchmarks=(BenchmarkFile("qvhighlights", str(path)),))
    assert apply(sample, source, settings, decontamination=lists).sample is sample
    for bad in (
        replace(source, video_id="v_x4kKIm8WWOA"),
        replace(source, video=replace(source.video, path="clips/x4kKIm8WWOA.mp4")),
    ):
        left = apply(sample, bad, settings, decontamination=lists)
        assert left.sample is None and left.rejected[-1].reason == "decontamination: qvhighlights"


def _rows(folder: Path, field: str) -> str:
    path = folder / f"{field}.jsonl"
    path.write_text(json.dumps({field: "abcdefghijk.mp4"}) + "\n")
    return str(path)


def test_lists_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, message in (
        ('[{"clip": "x"}]', "record 0: video: missing"),
        ('{"a": 1}', "must be a list"),
        ("[]", "no video"),
        ("{", "not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(SynthError, match=message):
            read_benchmarks([BenchmarkFile("ovo_bench", str(path))])
    with pytest.raises(SynthError, match="layout 'none'"):
        read_benchmarks([BenchmarkFile("none", str(path))])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real annotation files are not here")
def test_real_lists() -> None:
    files = {
        "ovo_bench": ("ovo_bench/ovo_bench_new.json", 644),
        "streaming_bench": ("streaming_bench/real_time_visual_understanding.json", 499),
        "video_holmes": ("video_holmes/test.json", 270),
        "charades_sta": ("annotations/charades_sta.json", 1334),
        "ego4d_goalstep": ("annotations/ego4d_goalstep_valid.json", 134),
        "activitynet_captions": ("annotations/activitynet_captions_val1_sample.json", 6),
    }
    for layout, (path, videos) in files.items():
        assert len(set(LAYOUTS[layout](str(SHARED / path)))) == videos, layout
    alerts = read_benchmarks([BenchmarkFile("omnimmi", str(SHARED / "omnimmi/proactive_alerting.json"))])
    highlights = SHARED / "annotations/qvhighlights/highlight_val_release.jsonl"
    # All 200 videos of OmniMMI's alerting are clips of QVHighlights val (benchmarks of one another's training).
    val = read_benchmarks([BenchmarkFile("qvhighlights", str(highlights))])
    assert alerts.benchmarks.keys() <= val.benchmarks.keys()
    found = read_benchmarks([BenchmarkFile("ovo_bench", str(SHARED / files["ovo_bench"][0]))])
    source = sources()[0]
    assert found.found(replace(source, video_id="v_Hf2AisK1wHY", dataset="activitynet_captions")) == "ovo_bench"
    assert found.found(replace(source, video_id="42", dataset="my_videos")) is None
