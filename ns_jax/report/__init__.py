"""What people look at: one page of a workdir, and the same numbers as JSON. docs/report.md."""
