"""Functions that are judges, as one writes them: config.judges.NAME = {"kind": "function", "path": "PACKAGE.MODULE:NAME"}."""
