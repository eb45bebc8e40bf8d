"""Readers of temporal annotations: a file of a dataset becomes Sources.

for annotated in READERS["ego4d_goalstep"]("goalstep_valid.json"):
    source = to_source(annotated, segment_seconds=2.0, videos="videos", span_clue=1.0)
"""

from data_pipeline.annotations import (
    action_genome,
    activitynet_captions,
    charades_sta,
    coin,
    ego4d_goalstep,
    ego4d_narrations,
    howto100m,
    llava_video,
    mtss,
    omnimmi,
    pvsg,
    qvhighlights,
    videoespresso,
    vidor,
    youcook2,
)
from data_pipeline.annotations.convert import Converted, convert, read_durations, to_source
from data_pipeline.annotations.record import Annotation, AnnotationError, Reader, VideoAnnotations

READERS: dict[str, Reader] = {
    "action_genome": action_genome.read,
    "activitynet_captions": activitynet_captions.read,
    "charades_sta": charades_sta.read,
    "coin": coin.read,
    "ego4d_goalstep": ego4d_goalstep.read,
    "ego4d_narrations": ego4d_narrations.read_official,
    "ego4d_narrations_live": ego4d_narrations.read_live,
    "howto100m": howto100m.read,
    "llava_video_178k": llava_video.read,
    "mtss": mtss.read,
    "omnimmi_ap": omnimmi.reader("ap"),
    "omnimmi_md": omnimmi.reader("md"),
    "omnimmi_pa": omnimmi.reader("pa"),
    "omnimmi_pt": omnimmi.reader("pt"),
    "omnimmi_sg": omnimmi.reader("sg"),
    "omnimmi_si": omnimmi.reader("si"),
    "pvsg": pvsg.read,
    "qvhighlights": qvhighlights.read,
    "videoespresso": videoespresso.read,
    "vidor": vidor.reader("vidor"),
    "vidvrd": vidor.reader("vidvrd"),
    "youcook2": youcook2.read,
}

__all__ = [
    "READERS",
    "Annotation",
    "AnnotationError",
    "Converted",
    "Reader",
    "VideoAnnotations",
    "convert",
    "read_durations",
    "to_source",
]
