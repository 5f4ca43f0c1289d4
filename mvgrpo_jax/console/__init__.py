"""The `mvgrpo` command, and what every command's terminal shows."""
