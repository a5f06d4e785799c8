"""Everything is broken while conversations run, and a checker looks whether a word was lost."""
