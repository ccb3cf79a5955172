"""result.json -> what people read: the score table on a terminal, and pages in English and Chinese."""

from kit.report.pages import write
from kit.report.terminal import print_dry_run, show_scores

__all__ = ["print_dry_run", "show_scores", "write"]
