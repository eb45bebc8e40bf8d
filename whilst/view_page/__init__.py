"""The parts of the page that `whilst.view` writes: one file a part, and the style and the script that all share."""
