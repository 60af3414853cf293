"""Reports: from the folder of a run to a page that people read; docs/report.md describes the folder."""
