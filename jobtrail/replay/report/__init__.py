"""Reports: what jobs did over a range of the log, as figures, plots and one page.

```python
report = Report.of(connection, Range(), about)  # with `jobs` and `transitions` of jobtrail.replay
report.figures["waiting"].rows
report.write_page(Path("report.html"))
```
"""

from jobtrail.replay.report.changes import Range
from jobtrail.replay.report.figure import Column, Figure
from jobtrail.replay.report.page import About
from jobtrail.replay.report.plots import PLOTS
from jobtrail.replay.report.report import Report

__all__ = ["PLOTS", "About", "Column", "Figure", "Range", "Report"]
