"""Whilst: post-train video LLMs that think whilst they watch. Here is the streaming core that every stage shares."""

import logging

__version__ = "0.1.0"

# DeepSpeed prints which accelerator it found to stdout, on import, in the middle of tables and JSON lines.
logging.getLogger("DeepSpeed").addFilter(lambda record: not record.getMessage().startswith("Setting accelerator"))
