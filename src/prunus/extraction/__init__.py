"""From masks or zeros to the exact small network: what is constant, what nothing reads, and who carries the rest."""

from prunus.extraction.extract import Extraction, extract

__all__ = ["Extraction", "extract"]
