"""What people watch: logs and events, each read once however many follow it."""
