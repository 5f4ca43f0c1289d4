"""A pipeline judged on a prompt set: pictures from fixed noise, scores with intervals, the paper's table, a page to look at."""
