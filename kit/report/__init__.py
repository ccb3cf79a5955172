"""result.json -> what people read: the score table on a terminal; HTML, PDF and DOCX in English and Chinese."""

from kit.report.terminal import print_dry_run, show_scores
from kit.report.write import FORMATS, Wanted, write

__all__ = ["FORMATS", "Wanted", "print_dry_run", "show_scores", "write"]
