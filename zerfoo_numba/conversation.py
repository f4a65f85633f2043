"""A conversation at the terminal, turn by turn: `zerfoo-numba chat`."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zerfoo_numba import terminal
from zerfoo_numba.errors import ZerfooError

HELP = """\
/image FILE  shows the model an image with the next message
/reset       forgets the conversation
/exit        leaves, as Ctrl-D does; Ctrl-C ends an answer
a line that ends in \\ goes on with the next one; so do all lines between two of \"\"\""""
FENCE = '"""'


class Conversation:
    """`system`: a text or None. `images`: files that go with the first message. `sampling`: the
    options of every answer, as `Model.stream` has them."""

    def __init__(
        self,
        model: Any,
        sampling: dict[str, Any],
        system: str | None = None,
        images: Iterable[Any] = (),
    ):
        self.model, self.sampling = model, sampling
        self.system = [{"role": "system", "content": system}] if system else []
        self.images = list(images)  # of the next message
        self.history = list(self.system)
        self.interactive = False

    def say(self, text: str) -> None:
        """One turn; the history grows only if it is answered. Ctrl-C at a terminal ends the
        answer and keeps what there is of it."""
        content: object = text
        if self.images:
            shown = [{"type": "image", "image": image} for image in self.images]
            content = [*shown, {"type": "text", "text": text}]
        turns: list[dict[str, Any]] = [*self.history, {"role": "user", "content": content}]
        kept: list[str] = []
        pieces = self.model.stream(self.model.chat_ids(turns), **self.sampling)
        try:
            terminal.write(terminal.progress("reading the conversation", pieces), kept.append)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            print()
        if kept:
            self.history = [*turns, {"role": "assistant", "content": "".join(kept)}]
            self.images = []
        terminal.print_timing(self.model)

    def command(self, line: str) -> bool:
        """Carry out a line that begins with a slash. False: leave."""
        name, _, rest = line.partition(" ")
        if name in ("/exit", "/quit"):
            return False
        if name == "/reset":
            self.history, self.images = list(self.system), []
        elif name == "/image" and rest.strip():
            self._show(rest.strip().strip("\"'"))
        else:
            print(HELP, file=sys.stderr)
        return True

    def _show(self, name: str) -> None:
        path = Path(name).expanduser()
        if path.is_file():
            self.images.append(str(path))
        else:
            print(f"there is no file {name}", file=sys.stderr)

    def run(self) -> None:
        """Every turn of stdin until its end. At a terminal an error is shown and the talk goes on;
        elsewhere it ends it."""
        self.interactive = sys.stdin.isatty()
        if self.interactive:
            print(HELP, file=sys.stderr)
        while (text := read_turn()) is not None:
            if text.startswith("/") and "\n" not in text:
                if not self.command(text):
                    return
            elif text:
                try:
                    self.say(text)
                except ZerfooError as error:
                    if not self.interactive:
                        raise
                    self.images = []
                    print(f"{error}; /reset starts again", file=sys.stderr)


def read_turn() -> str | None:
    """One turn of the user, None at the end of input."""
    lines: list[str] = []
    fenced = False
    while True:
        line = terminal.read_line(". " if lines or fenced else "> ")
        if line is None:
            return "\n".join(lines) if lines else None
        if line.strip() == FENCE:
            if fenced:
                return "\n".join(lines).strip()
            fenced = not lines
        elif line.endswith("\\") and not fenced:
            lines.append(line[:-1])
        elif fenced:
            lines.append(line)
        else:
            return "\n".join([*lines, line]).strip()
