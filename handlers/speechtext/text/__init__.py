"""Text tasks: one class for each, in the one table of `speechtext.text.tasks`."""
