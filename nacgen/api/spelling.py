"""Messages of commands in the words of Python: flags become the arguments that they are called there."""

import re
from collections.abc import Container, Mapping
from typing import Any

# Words that go on with a sentence after a flag; any other is the flag's value.
PROSE = "and|as|asks|at|for|is|must|needs|or|out|takes|to|which|with"
FLAG = rf"--([a-z][\w.-]*\w)(?: (?!(?:{PROSE})\b|--)([^\s,;()]*[^\s,;().:]))?"
FLAGS = rf"{FLAG}(?: {FLAG})*"
COMMAND = re.compile(
    rf"nacgen (pretrain|train-gan|train-vae|train-flow|train-classifier|compare)\b((?: {FLAG})*)"
)


def as_arguments(text: str, options: Mapping[str, Any], dotted: Container[str] = ()) -> str:
    r"""Return a text in which flags are Python's arguments, and commands are calls; unknown flags stay.

    Args:
        text: Message that may name flags, with a value or without.
        options: Default values by dotted name, of the options that the call takes.
        dotted: Topics of which the call has options by dotted name, beside which a mapping may have no place.

    Example:
        >>> options = {"run_dir": None, "fresh": False, "score.extractor": None}
        >>> as_arguments("Choose another --run-dir, or --fresh, or --score.extractor none.", options)
        'Choose another run_dir, or fresh=True, or score={"extractor": "none"}.'
    """

    def argument(flag: re.Match[str], is_known: bool = False) -> str:
        name, value = flag[1].replace("-", "_"), flag[2]
        topic, dot, last = name.rpartition(".")
        after = ""
        if isinstance(options.get(name), bool):
            value, after = "True", f" {value}" if value else ""
        elif value and not re.fullmatch(r"[\d.e+-]+|N", value):
            value = f'"{value.strip(chr(39))}"'
        if not is_known and name not in options:
            return flag[0]
        if not dot:
            return (f"{name}={value}" if value else name) + after
        if topic in dotted:
            return f'**{{"{name}": {value or "..."}}}{after}'
        return f'{topic}={{"{last}": {value or "..."}}}{after}'

    def call(command: re.Match[str]) -> str:
        given = ", ".join(argument(flag, is_known=True) for flag in re.finditer(FLAG, command[2]))
        return f"nacgen.{command[1].replace('-', '_')}" + (f"({given})" if given else "")

    def arguments(flags: re.Match[str]) -> str:
        each = [argument(flag) for flag in re.finditer(FLAG, flags[0])]
        return (" " if any(part.startswith("--") for part in each) else ", ").join(each)

    return re.sub(FLAGS, arguments, COMMAND.sub(call, text))
