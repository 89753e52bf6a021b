"""What a run hands over: a folder that loads without this project."""
