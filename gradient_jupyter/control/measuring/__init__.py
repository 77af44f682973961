"""Numbers of jobs: from each door they come in by to the file of their run, and out of it again."""
