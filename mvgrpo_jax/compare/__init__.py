"""Runs side by side: their curves, their scores with differences, their pictures before and after."""
