"""How much Teamleader's API gives at once, and how often and how long it is asked.

Used as `limits.NAME`, so that there is one place where each of these can be set.
"""

from datetime import timedelta

PAGE_RECORDS = 100  # the most that a page holds
MANY_PAGES = 5  # of ids that are looked for at once
MOST_PAGES = 100_000
WALKS = 3  # through a list that changes meanwhile
LIMIT = 200  # requests in a window, until headers say otherwise
WINDOW = timedelta(minutes=1)
DEADLINE = timedelta(minutes=5)  # of one call, repetitions and waits for the rate limit included
REPEATS = (timedelta(seconds=0.5), timedelta(seconds=2))  # pauses before an answer of another shape is asked for again
