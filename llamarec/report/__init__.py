"""What a run left on the disk, as a page for people: report.html. Trains nothing and loads no model."""
