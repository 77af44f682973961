"""What jobs read and leave: snapshots of directories, versions of datasets, artifacts. Named by content."""
