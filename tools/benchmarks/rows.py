# Copyright (c) mmext contributors. All rights reserved.
"""What the benchmarks in this folder write: one list of rows, as JSON."""
from typing import Optional

from mmext.utils.io import write_json


class Rows(list):
    """Rows ``{name, value, unit, target, ok}`` of a benchmark.

    Args:
        digits (int, optional): Decimals to keep, None for all. Defaults
            to 4.
        show (bool): Whether to print each row. Defaults to True.
        without_target (bool, optional): ``ok`` of rows that have no target.
            Defaults to True.
    """

    def __init__(self,
                 digits: Optional[int] = 4,
                 show: bool = True,
                 without_target: Optional[bool] = True) -> None:
        super().__init__()
        self.digits, self.show = digits, show
        self.without_target = without_target

    def add(self,
            name: str,
            value: float,
            unit: str,
            target: Optional[float] = None,
            more: bool = False) -> None:
        """Append a row.

        Args:
            name (str): What was measured.
            value (float): The number, compared with the target before it is
                rounded.
            unit (str): Its unit, '' for none.
            target (float, optional): What it should reach. Defaults to None.
            more (bool): Whether more is better. Defaults to False.
        """
        if target is None:
            ok = self.without_target
        else:
            ok = value >= target if more else value <= target
        if self.digits is not None:
            kept = round(value, self.digits)
        else:
            kept = value
        self.append(
            dict(name=name, value=kept, unit=unit, target=target, ok=ok))
        if self.show:
            print(f'{name}: {value:.3f} {unit}', flush=True)

    def write(self, path: str) -> None:
        """Write the rows to a JSON file."""
        write_json(path, self)
