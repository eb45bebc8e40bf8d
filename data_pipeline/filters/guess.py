"""Can a query be answered without the video? Two guessers that read text alone.

`Guesser` has counted, over a whole run, how each question is answered in other videos, which option is right
whenever it is offered (the flaw of OVO-Bench's HLD, where "Unable to answer" always is), and which letter. Its size is
bounded, and so is what it finds: of more than `keys` different texts it keeps those with the smallest hash, of each
text the `videos` videos with the smallest hash. Such samples depend neither on the order in which things are counted
nor on how a run is cut into shards: two of them merge into what one would have counted.

`EndpointGuesser` puts the question to a language model (VST's "world-knowledge check", figure 4 of the paper; without
stated model or threshold).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from data_pipeline.filters.settings import GuessSettings
from data_pipeline.filters.view import Problems, View, chosen
from data_pipeline.filters.words import same, unboxed, words
from data_pipeline.queries.choice import own_words
from data_pipeline.source import Source, SynthError
from data_pipeline.text.task import Task, TextRejected, Write
from whilst.sample import Answer, Query, Sample

ANSWERS = 8  # most different answers that are kept of one video and text


@dataclass(frozen=True)
class Guess:
    """What the guesser would say, how sure it is (0 to 1), and on how many other videos (or tries) that rests."""

    text: str
    confidence: float
    support: int


class TextOnly(Protocol):
    """Reads the question and its options, never the video, the thoughts or other samples of the same video."""

    def guess(self, sample: Sample, query: Query, answer: str) -> Guess | None:
        """A guess, or None where nothing speaks for any; `answer` is only for counting right tries."""


def guessable(view: View, query: Query, guesser: TextOnly) -> Problems:
    """A query whose answer is what the guesser surely says. A standing one asks for a moment, which no text has."""
    settings = view.settings.guesser
    answers = view.answers(query)
    if settings is None or not answers or _stands(view.sample, query):
        return
    right = unboxed(chosen(query, answers[0]))
    try:
        guess = guesser.guess(view.sample, query, right)
    except TextRejected as rejected:
        yield f"guesser: {rejected.reason}", rejected.detail
        return
    if guess is not None and guess.confidence >= settings.confidence and same(guess.text, right):
        detail = f"{guess.text!r}, sure to {guess.confidence:.2f} by {guess.support}"
        yield "guesser: answerable without the video", detail


def _stands(sample: Sample, query: Query) -> bool:
    asks: Any = sample.meta.get("asks", {})
    told = asks.get(query.id, {}) if isinstance(asks, Mapping) else {}
    return query.window is not None or told.get("until") is not None


# ---- Statistics.


@dataclass
class Guesser:
    """votes[table][text's hash][video's hash][answer]: how often. Tables: question, option (right or wrong), place.

    `seed` decides which texts and videos are kept where there are too many.
    """

    settings: GuessSettings
    seed: int = 0
    votes: dict[str, dict[int, dict[int, Counter[str]]]] = field(default_factory=dict)
    _sealed: bool = False

    def learn(self, sample: Sample, source: Source) -> None:
        """Take note of how the queries of a sample are answered. One that stands asks for a moment: it is left out."""
        video = self._video(source.dataset, source.video_id)
        for query in sample.queries():
            answers = sample.answers_to(query.id)
            if answers and not _stands(sample, query):
                for table, text, vote in _ballot(query, answers[0]):
                    self._add(table, self._hash(text), video, Counter({vote: 1}))

    def merge(self, other: Guesser) -> None:
        """Take note of what another has counted.

        Raises:
            SynthError: it was counted under other settings or another seed.
        """
        if (other.settings, other.seed) != (self.settings, self.seed):
            raise SynthError("guesser: counts of other settings or another seed do not merge; count all with the same")
        for table, keys in other.votes.items():
            for key, videos in keys.items():
                for video, votes in videos.items():
                    self._add(table, key, video, votes)

    def guess(self, sample: Sample, query: Query, answer: str) -> Guess | None:
        """The surest guess that rests on at least `support` other videos."""
        self._seal()
        own = self._video(sample.meta.get("dataset"), sample.meta.get("video_id"))
        guesses = []
        if found := self._poll("question", _question(query), own):
            guesses.append(found)
        for option in query.options or ():
            found = self._poll("option", _option_key(option), own)
            if found is not None and found.text == "right":
                guesses.append(Guess(option, found.confidence, found.support))
        if query.options is not None and (found := self._poll("place", str(len(query.options)), own)):
            guesses.append(Guess(query.options[int(found.text)], found.confidence, found.support))
        return max(guesses, key=lambda one: (one.confidence, one.support), default=None)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, the same for the same counts in any order."""
        self._seal()
        return {
            table: [
                [key, [[video, sorted(votes.items())] for video, votes in sorted(videos.items())]]
                for key, videos in sorted(keys.items())
            ]
            for table, keys in sorted(self.votes.items())
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], settings: GuessSettings, seed: int = 0) -> Guesser:
        """What `to_json` has given."""
        found = cls(settings, seed)
        for table, keys in record.items():
            for key, videos in keys:
                for video, votes in videos:
                    found._add(table, key, video, Counter(dict(votes)))
        return found

    def _video(self, dataset: object, video_id: object) -> int:
        return self._hash(f"{dataset}/{video_id}")

    def _hash(self, text: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"{self.seed}/{text}".encode(), digest_size=8).digest(), "big")

    def _add(self, table: str, key: int, video: int, votes: Counter[str]) -> None:
        self._sealed = False
        keys = self.votes.setdefault(table, {})
        videos = keys.setdefault(key, {})
        answers = videos.setdefault(video, Counter())
        answers.update(votes)
        if len(answers) > ANSWERS:
            for extra in sorted(answers, key=self._hash)[ANSWERS:]:
                del answers[extra]
        # Sorting takes time, so a table may grow to twice its size before it is cut.
        _keep(videos, self.settings.videos, slack=2)
        _keep(keys, self.settings.keys, slack=2)

    def _seal(self) -> None:
        """Cut everything to size. What is dropped here or earlier could never come back: its rank only gets worse."""
        if not self._sealed:
            for keys in self.votes.values():
                _keep(keys, self.settings.keys)
                for videos in keys.values():
                    _keep(videos, self.settings.videos)
            self._sealed = True

    def _poll(self, table: str, text: str, own: int) -> Guess | None:
        """The commonest vote; every other video has one vote, shared by its answers."""
        shares: defaultdict[str, float] = defaultdict(float)
        known = self.votes.get(table, {}).get(self._hash(text), {})
        videos = {video: votes for video, votes in known.items() if video != own}
        for votes in videos.values():
            for vote, count in votes.items():
                shares[vote] += count / votes.total()
        if len(videos) < self.settings.support:
            return None
        best = min(shares, key=lambda vote: (-shares[vote], vote))
        return Guess(best, shares[best] / len(videos), len(videos))


def _ballot(query: Query, answer: Answer) -> Iterator[tuple[str, str, str]]:
    """(table, text, vote) of one answered query."""
    right = unboxed(chosen(query, answer))
    yield "question", _question(query), right
    for place, option in enumerate(query.options or ()):
        yield "option", _option_key(option), "right" if same(option, right) else "wrong"
        if same(option, right):
            yield "place", str(len(query.options or ())), str(place)


def _question(query: Query) -> str:
    return " ".join(words(own_words(query)))


def _option_key(option: str) -> str:
    return " ".join(words(option))


def _keep(table: dict[int, Any], most: int, slack: int = 1) -> None:
    """Keep the `most` entries with the smallest keys, once there are more than `slack` times as many."""
    if len(table) > slack * most:
        for extra in sorted(table)[most:]:
            del table[extra]


# ---- A language model.


@dataclass(frozen=True)
class EndpointGuesser:
    """Asks `tries` times, with the options turned round each time so that a liking for one letter does not count."""

    write: Write
    tries: int

    def guess(self, sample: Sample, query: Query, answer: str) -> Guess | None:
        """The right answer with the share of tries that gave it as confidence.

        Raises:
            TextRejected: by the writer.
        """
        right = 0
        for n in range(self.tries):
            options = list(query.options or ())
            options = options[n % max(1, len(options)) :] + options[: n % max(1, len(options))]
            facts = {"question": own_words(query), "options": options}
            said = unboxed(self.write(Task("guess", facts, key=f"{sample.id}/{query.id}/{n}")))
            right += same(_option(said, options), answer)
        return Guess(answer, right / self.tries, self.tries)


def _option(said: str, options: list[str]) -> str:
    """What a reply stands for: an option when it is that option's letter (`B`, `(b)`, `B.`), else itself."""
    letter = said.strip().strip("().: ").upper()
    place = ord(letter) - ord("A") if len(letter) == 1 else -1
    return options[place] if 0 <= place < len(options) else said
