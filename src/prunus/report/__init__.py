"""What people read: tables in the terminal and one self-contained HTML page."""

from prunus.report.page import Report, Section, Tile, write_report
from prunus.report.tables import Table

__all__ = ["Report", "Section", "Table", "Tile", "write_report"]
