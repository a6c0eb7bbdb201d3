"""Reports: folders of benchmark rows in, figures, tables and one page out. From rows alone, without torch.

    report(folders, output) -> Report:  wer.png, wer.svg, ..., tables.md, tables/*.csv, index.html
"""

from avsr.report.make import Report, ReportSettings, report

__all__ = ["Report", "ReportSettings", "report"]
