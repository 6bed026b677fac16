"""The builder of wheels behind ``.ci/wheel``: the standard library only, whatever Python starts it."""
