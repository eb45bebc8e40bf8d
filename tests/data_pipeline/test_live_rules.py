"""LIVE's rules for dialogues and narrations out of temporal annotations, one test for each (streaming-methods 1.3)."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.builders.live_dialogue import SECONDS, LiveDialogueSettings, plan, tell
from data_pipeline.builders.live_narration import LiveNarrationSettings
from data_pipeline.builders.live_narration import plan as plan_narration
from data_pipeline.builders.live_narration import tell as tell_narration
from data_pipeline.builders.script import Script
from data_pipeline.builders.watch import ceil_to, floor_to
from data_pipeline.queries.ask import Ask
from data_pipeline.source import Rejected, Source, SynthError
from data_pipeline.text.task import Task, TextRejected
from data_pipeline.text.templates import templates
from data_pipeline.text.templates.request import REQUESTS
from tests.data_pipeline.small_sources import STEPS, narrated_source, steps_source
from whilst.sample import Answer, Query, Sample, Segment, Silence, validate

GOALSTEP = Path(__file__).parents[3] / "shared" / "data" / "annotations" / "ego4d_goalstep_valid.json"
WRITE = templates(0)
LIVE = LiveDialogueSettings()
MANY = replace(LIVE, dialogues=200)


def dialogues(source: Source, settings: LiveDialogueSettings = LIVE, seed: int = 0) -> list[tuple[Script, Sample]]:
    planned = plan(source, settings, WRITE, seed)
    return [(script, tell(source, script, settings, WRITE, seed)) for script in planned.scripts]


def times_of(script: Script, name: str) -> list[float]:
    return [float(str(ask.slots[name])) for ask in script.asks]


def replies_of(sample: Sample) -> list[tuple[float, str]]:
    return [(event.time, event.text) for event in sample.events if isinstance(event, Answer)]


@pytest.mark.parametrize(("duration", "kept"), [(59.9, False), (60.0, True), (3600.0, True), (3600.1, False)])
def test_1_videos_of_less_than_60_or_more_than_3600_seconds_give_nothing(duration: float, kept: bool) -> None:
    planned = plan(steps_source(0.0, STEPS[:3], duration=duration), LIVE, WRITE, 0)
    assert bool(planned.scripts) == kept
    if not kept:
        assert planned.rejected == [Rejected("steps", "video too short or too long", f"{duration} s")]


def test_2_user_times_are_drawn_evenly_from_the_first_start_to_the_last_end_in_tenths() -> None:
    found = [time for script, _ in dialogues(steps_source(0.0), MANY) for time in times_of(script, "time")]
    assert all(round(time, 1) == time and 2.2 <= time <= 95.0 for time in found)
    quarters = Counter(int((time - 2.2) / (95.0 - 2.2) * 4) for time in found)
    assert all(0.2 < quarters[n] / len(found) < 0.3 for n in range(4))
    assert any(time * 2 % 1 for time in found)  # not on the grid of frames


def test_2_three_queries_a_dialogue_each_to_be_counted() -> None:
    planned = plan(steps_source(0.0), MANY, WRITE, 0)
    assert planned.queries.taken == 3 * 200
    planned.queries.check("dialogues")
    assert Counter(len(script.asks) for script in planned.scripts).most_common(1)[0][0] == 3
    assert set(planned.queries.rejected) <= {"before the reply to the query before", "after the last frame"}


def test_3_queries_are_about_the_past_the_present_and_what_comes_next_in_many_words() -> None:
    scripts = [script for script, _ in dialogues(steps_source(0.0), MANY)]
    subkinds = Counter(ask.subkind for script in scripts for ask in script.asks)
    assert set(subkinds) == {"live_past", "live_current", "live_next"}
    assert min(subkinds.values()) > 0.25 * sum(subkinds.values())
    for subkind in subkinds:
        assert len(set(REQUESTS[subkind])) >= 50


def test_4_replies_come_to_the_query_and_at_every_start_and_end_until_the_next_query() -> None:
    source = steps_source(0.0)
    rounded = {ceil_to(time, 2.0) for start, end, *_ in STEPS for time in (start, end)}
    # An end on the grid itself shows one frame later: in its own frame nobody can see that it is one.
    moved = {52.5: 53.0, 79.0: 79.5, 95.0: 95.5}
    changes = sorted({moved.get(time, time) for time in rounded})
    for script, sample in dialogues(source, replace(MANY, dialogues=50)):
        for n, ask in enumerate(script.asks):
            first = times_of(script, "reply")[n]
            last = n + 1 == len(script.asks)
            until = script.segments[-1].end if last else script.asks[n + 1].time
            # What changes in the very frame of the next reply is left to that.
            taken = None if last else times_of(script, "reply")[n + 1]
            expected = {first, *(time for time in changes if first < time <= until and time != taken)}
            assert {answer.time for answer in sample.answers_to(ask.id)} == expected


def test_4_at_all_other_frames_silence_is_explicit() -> None:
    for script, sample in dialogues(steps_source(0.0)):
        frames = {segment.end for segment in script.segments if segment.end >= times_of(script, "reply")[0]}
        said = {event.time for event in sample.events if isinstance(event, (Answer, Silence))}
        assert said == frames
        assert all(isinstance(event.query, str) for event in sample.events if isinstance(event, Silence))


def test_5_users_times_are_rounded_down_and_replies_up_to_the_grid_of_frames() -> None:
    assert (floor_to(12.3, 2.0), ceil_to(12.3, 2.0)) == (12.0, 12.5)
    assert (floor_to(12.5, 2.0), ceil_to(12.5, 2.0)) == (12.5, 12.5)
    assert (floor_to(0.3 * 3, 10.0), ceil_to(0.1 + 0.2, 10.0)) == (0.9, 0.3)  # floats that are off by a hair
    for script, sample in dialogues(steps_source(0.0), MANY):
        for query, time in zip(sample.queries(), times_of(script, "time"), strict=True):
            assert query.time == floor_to(time, 2.0)
            assert sample.answers_to(query.id)[0].time == ceil_to(time, 2.0)


def test_6_the_stream_begins_up_to_20_frames_before_the_frame_of_the_first_query() -> None:
    waits = Counter[int]()
    for script, _ in dialogues(steps_source(0.0), MANY):
        if script.asks[0].time > 12.0:  # not held up by the start of the video
            waits[round((script.asks[0].time - script.segments[0].start) * 2) - 1] += 1
        assert all(segment.end - segment.start == 0.5 for segment in script.segments)
    assert set(waits) <= set(range(21)) and min(waits) == 0 and max(waits) == 20


def test_6_the_stream_is_cut_at_the_most_frames_and_later_queries_are_counted() -> None:
    planned = plan(steps_source(0.0), replace(MANY, max_frames=40), WRITE, 0)
    assert {len(script.segments) for script in planned.scripts} <= set(range(1, 41))
    assert planned.queries.rejected["after the last frame"] > 0
    planned.queries.check("dialogues")


def test_7_seconds_never_leak_into_a_message() -> None:
    for word in ("the second layer", "after 5s", "20 Seconds", "a 12s break"):
        assert SECONDS.search(word)
    for _, sample in dialogues(steps_source(0.0)):
        texts = [event.text for event in sample.events if isinstance(event, (Query, Answer))]
        assert not any(re.search(r"\d", text) or "second" in text.lower() for text in texts)


def test_7_a_dialogue_with_seconds_in_a_reply_or_question_is_dropped() -> None:
    bad = [(2.0, 30.0, 0, "adds the second egg"), (35.0, 90.0, 0, "stirs")]
    source = steps_source(0.0, bad)
    planned = plan(source, MANY, WRITE, 0)
    dropped = 0
    for script in planned.scripts:
        try:
            sample = tell(source, script, MANY, WRITE, 0)
        except TextRejected as error:
            assert error.reason == "seconds in a message"
            dropped += 1
        else:
            assert not any("second egg" in text for _, text in replies_of(sample))
    assert 0 < dropped < len(planned.scripts)

    def timed(task: Task) -> str:
        return "What happens in 10s?" if task.step == "question" else WRITE(task)

    planned = plan(source, LIVE, timed, 0)
    assert not planned.scripts
    assert {one.reason for one in planned.rejected} == {"seconds in a message"}
    planned.queries.check("dialogues")


def test_8_ten_dialogues_a_video_with_different_times_the_same_for_the_same_seed() -> None:
    found = dialogues(steps_source(0.0))
    assert len(found) == 10 and len({sample.id for _, sample in found}) == 10
    assert len({tuple(times_of(script, "time")) for script, _ in found}) == 10
    assert dialogues(steps_source(0.0)) == found
    assert dialogues(steps_source(0.0), seed=1) != found


# ---- Where this departs from the released code: nothing is told before it can be known.


def asked(source: Source, subkind: str, time: float) -> list[tuple[float, str]]:
    slots = {"time": time, "reply": ceil_to(time, 2.0), "start": 0.0}
    segments = tuple(Segment(k / 2, (k + 1) / 2) for k in range(200))
    ask = Ask("q0", "present", subkind, floor_to(time, 2.0), slots, until=100.0)
    return replies_of(tell(source, Script("a", segments, (ask,), {"q0": "?"}), LIVE, WRITE, 0))


def test_what_comes_next_is_deferred_until_it_begins() -> None:
    said = asked(steps_source(0.0), "live_next", 42.0)
    assert said[0][0] == 42.0 and not any(text in said[0][1] for *_, text in STEPS)
    assert said[1][0] == 45.5 and "bakes the bread" in said[1][1]


def test_the_present_and_the_past_are_told_as_they_are_known() -> None:
    now = dict(asked(steps_source(0.0), "live_current", 13.0))
    assert "makes the dough" in now[13.0] and "pours" not in now[13.0]
    past = dict(asked(steps_source(0.0), "live_past", 13.0))
    assert "pours the flour" in past[13.0] and "makes the dough" not in past[13.0]
    assert "kneads the dough" in past[40.0] and "makes the dough" not in past[40.0]
    assert "makes the dough" in past[40.5]


def test_a_step_that_is_known_at_its_end_alone_is_told_at_its_end_alone() -> None:
    said = asked(steps_source(1.0), "live_current", 2.5)
    assert [time for time, _ in said] == [2.5, 12.5, 26.0, 40.0, 40.5, 52.5, 53.0, 79.0, 79.5, 80.5, 95.0, 95.5]


def test_a_reply_rests_on_what_the_stream_itself_has_shown() -> None:
    source = steps_source(0.0)
    slots = {"time": 85.5, "reply": 85.5, "start": 84.0}
    segments = tuple(Segment(k / 2, (k + 1) / 2) for k in range(168, 180))
    script = Script("a", segments, (Ask("q0", "backward", "live_past", 85.5, slots, until=90.0),), {"q0": "?"})
    sample = tell(source, script, LIVE, WRITE, 0)
    validate(sample)
    assert not any(text in replies_of(sample)[0][1] for *_, text in STEPS)


@pytest.mark.parametrize("change", [{"fps": 0.0}, {"dialogues": 0}, {"waiting_frames": -1}, {"shortest": 4000.0}])
def test_settings_out_of_range_are_errors(change: dict[str, float]) -> None:
    with pytest.raises(SynthError, match="live_dialogue"):
        replace(LIVE, **change)  # type: ignore[arg-type]


def test_no_steps_are_a_rejection() -> None:
    source = narrated_source([(1.0, "the cook sits down")], duration=80.0)
    assert plan(source, LIVE, WRITE, 0).rejected == [Rejected("narrated", "no steps")]


# ---- Narrations.

TEXTS = [(1.2, "the cook sits"), (3.0, "the cook sits"), (4.1, "nods"), (6.1, "she gets up"), (6.4, "she turns round")]


def narration(texts: list[tuple[float, str]], **changes: int) -> tuple[Sample, Script]:
    source, settings = narrated_source(texts), replace(LiveNarrationSettings(), **changes)  # type: ignore[arg-type]
    script = plan_narration(source, settings, WRITE, 0).scripts[0]
    sample = tell_narration(source, script, settings, WRITE, 0)
    validate(sample)
    return sample, script


def test_narration_one_frame_that_is_not_learned_then_the_instruction() -> None:
    sample, script = narration(TEXTS)
    assert [type(event) for event in sample.events[:3]] == [Segment, Query, Segment]
    assert sample.queries()[0].text.lower() in (one.lower() for one in REQUESTS["live_narration"])
    assert script.asks[0].time == 0.5


def test_narration_times_are_rounded_up_to_the_grid_and_the_rest_is_learned_silence() -> None:
    sample, _ = narration(TEXTS)
    assert replies_of(sample) == [(1.5, "The cook sits."), (6.5, "She turns round.")]
    silent = {event.time for event in sample.events if isinstance(event, Silence)}
    assert silent == {k / 2 for k in range(2, 41)} - {1.5, 6.5}


def test_narration_one_a_frame_two_words_at_least_and_none_twice_in_a_row() -> None:
    said = [text for _, text in replies_of(narration(TEXTS)[0])]
    assert said.count("The cook sits.") == 1  # word for word the one before
    assert "Nods." not in said  # one word
    assert "She gets up." not in said  # another one in its frame
    twice = [(1.0, "the cook sits"), (2.0, "she gets up"), (3.0, "the cook sits")]
    assert [text for _, text in replies_of(narration(twice)[0])].count("The cook sits.") == 2


def test_narration_goes_on_in_the_next_sample_without_loss_and_silent_pieces_are_rejected() -> None:
    source, settings = narrated_source(TEXTS, duration=40.0), replace(LiveNarrationSettings(), max_frames=10)
    planned = plan_narration(source, settings, WRITE, 0)
    told = [
        text for script in planned.scripts for _, text in replies_of(tell_narration(source, script, settings, WRITE, 0))
    ]
    assert told == ["The cook sits.", "She turns round."]
    assert [one.reason for one in planned.rejected] == ["nothing to narrate"] * 6
    assert (planned.queries.taken, planned.queries.made) == (8, 2)


# ---- The real annotations.


def test_goalstep_dialogues_keep_the_rules() -> None:
    if not GOALSTEP.is_file():
        pytest.skip(f"{GOALSTEP} is not here")
    from data_pipeline.annotations import READERS, to_source

    sources = []
    for annotated in READERS["ego4d_goalstep"](GOALSTEP):
        assert not isinstance(annotated, Rejected)
        made = to_source(annotated, segment_seconds=10.0, videos="v", span_clue=0.0, unknown_duration="last_annotation")
        if isinstance(made, Source):
            sources.append(made)
    assert len(sources) > 100
    made_at_all = 0
    for source in sources[:8]:
        planned = plan(source, LIVE, WRITE, 0)
        planned.queries.check(source.id)
        if not 60 <= source.graph.duration <= 3600:
            assert not planned.scripts
            continue
        assert len(planned.scripts) + len(planned.rejected) == 10
        for script in planned.scripts:
            try:
                sample = tell(source, script, LIVE, WRITE, 0)
            except TextRejected as error:
                assert error.reason == "seconds in a message"
                continue
            validate(sample)
            made_at_all += 1
            assert len(script.segments) <= 1200
            assert not any(SECONDS.search(event.text) for event in sample.events if isinstance(event, (Query, Answer)))
    assert made_at_all > 40
