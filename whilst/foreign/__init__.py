"""Readers and writers for three foreign layouts: of VST, of StreamingVLM and LiveCC, and of Think While Watching.

What holds for all three:

- A writer reads its own record back before it writes, and raises when anything of the sample would be lost or changed:
  what a layout cannot say is an error, not a loss. Events, times and texts live in the layout's own fields; fields that
  mean nothing here are kept in `Sample.meta` under the layout's name and written from there.
- Layouts without ids get `vst-<line>`, `text_stream-<line>` or the file's name, and queries `q0`, `q1`, ... in their
  order in the record. Other ids ride in the fields `id` and `query_ids`, which the foreign loaders pass over.
- `video.path` stays as the record states it. The folder it is relative to is not in the file: see `with_video_root`.
- `scan_*` turns what `read_*` raises at into rejections: items in = samples + rejections.
"""

from whilst.foreign.layout import with_video_root
from whilst.foreign.text_stream import read_text_stream, scan_text_stream, write_text_stream
from whilst.foreign.tww import read_tww, scan_tww, write_tww
from whilst.foreign.vst import read_vst, scan_vst, write_vst

__all__ = [
    "read_text_stream",
    "read_tww",
    "read_vst",
    "scan_text_stream",
    "scan_tww",
    "scan_vst",
    "with_video_root",
    "write_text_stream",
    "write_tww",
    "write_vst",
]
