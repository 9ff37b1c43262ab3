"""Task queues: backlogs, waiting polls, and the pairing of the two."""
