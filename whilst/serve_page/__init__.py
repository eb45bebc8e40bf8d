"""Parts of the page of `whilst serve`: its videos, its runs, and the files that a browser loads."""
