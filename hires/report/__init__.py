"""A run's folder as a page that a person can read.

reading.py reads it, verdict.py says in words how it went, panels.py and measures.py choose what is shown, charts.py and pictures.py draw,
page.py and comparison.py fill the templates in pages/. The pages hold all that they show, ask no network and run no script.
"""
