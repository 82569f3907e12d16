"""Claims and studies: published statements and open questions, the runs they rest on, and what the runs are
judged by."""
