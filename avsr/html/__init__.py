"""Pages, tables and plots, shared by `avsr explain` and `avsr report`: one HTML file a page, which needs no other file.

    page (templates, word edits, recordings as data URIs), table (columns and rows), plot (colours, figure -> SVG)
"""
