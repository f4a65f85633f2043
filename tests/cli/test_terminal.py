"""The command line in a real terminal: what goes where, Ctrl-C, turns of more than one line."""

import io
import os
import re
import select
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from zerfoo_numba import conversation
from zerfoo_numba.conversation import Conversation, read_turn
from zerfoo_numba.errors import InputError

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX")
PROGRAM = [sys.executable, "-m", "zerfoo_numba"]
DEADLINE_S = 300  # of a run that compiles every kernel for the first time, on a busy machine


def flags(tiny, *more):
    return ["-m", str(tiny), "--device", "cpu", *more]


def until(file, pattern, text=""):
    """Everything that comes from the descriptor, up to what `pattern` matches or its end."""
    end = time.monotonic() + DEADLINE_S
    while not re.search(pattern, text):
        ready, _, _ = select.select([file], [], [], max(0, end - time.monotonic()))
        assert ready, f"nothing more came after {text!r}"
        try:
            data = os.read(file, 65536)
        except OSError:  # the other side has gone
            break
        if not data:
            break
        text += data.decode()
    return text


def test_progress_goes_to_the_terminal_and_the_text_to_stdout(tiny):
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "generate", *flags(tiny), "-p", "ba be", "-n", "4", "-c", "64"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = until(ours, "from the graph")
    out = process.communicate()[0].decode()
    assert process.returncode == 0
    assert out.strip() and out.endswith("\n") and "\x1b" not in out
    assert "loading 100% of" in shown and "reading the prompt" in shown
    last = shown.rstrip().rsplit("\x1b[K", 1)[1]  # progress is gone, the timing stays
    assert re.match(r"prompt \d+ tokens in .* generated 4 tokens in", last)


def heed_interrupts():
    """What a shell starts in the background inherits that they are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_stops_a_generation(tiny):
    # On the emulator, where the whole context takes minutes: it cannot end before the signal.
    command = [*PROGRAM, "generate", "-m", str(tiny), "--device", "emulator"]
    command += ["-p", "ba be", "-n", "-1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts
    )
    until(process.stdout.fileno(), ".")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert error.decode().strip() == ""


def test_an_interrupt_of_a_finalizer_is_not_lost():
    program = (
        "import signal, sys, time\nfrom zerfoo_numba import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.unraisablehook = cli.interrupt_again\n"
        "class Dropped:\n    def __del__(self):\n        raise KeyboardInterrupt\n"
        "try:\n    Dropped()\n    for _ in range(3000):\n        time.sleep(0.01)\n"
        "except KeyboardInterrupt:\n    print('stopped')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=DEADLINE_S)
    assert (done.stdout, done.stderr) == (b"stopped\n", b"")


def test_a_chat_in_a_terminal(tiny):
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [*PROGRAM, "chat", *flags(tiny, "-n", "5", "-c", "512")])
    timing = r"prompt (\d+) tokens.*\n(?:.*\n)*?> $"
    until(terminal, "> $")
    counts = []
    for turn in ("ba\r", "be \\\rbi\r", "/reset\rba\r"):
        os.write(terminal, turn.encode())
        text = until(terminal, timing)
        counts.append(int(re.search(timing, text)[1]))
    os.write(terminal, b"/image nowhere.png\r")
    assert "there is no file nowhere.png" in until(terminal, "nowhere.png\r\n> $")
    os.write(terminal, b"\x04")  # Ctrl-D
    until(terminal, "never")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert counts[0] < counts[1], "the conversation is not remembered"
    assert counts[2] == counts[0], "/reset does not forget"


# Without a model -------------------------------------------------------------------------------


class Model:
    config = SimpleNamespace(name="stand-in")
    device = SimpleNamespace(name="none")
    stats = SimpleNamespace(
        prompt_tokens=1, prompt_seconds=1.0, images=0, image_seconds=0.0, generated_tokens=1,
        decode_steps=0, generated_seconds=0.0, graph_share=1.0,
    )  # fmt: skip

    def __init__(self):
        self.asked = []

    def chat_ids(self, turns):
        return turns

    def stream(self, turns, **options):
        self.asked.append(turns)
        if "fail" in str(turns[-1]):
            raise InputError("no")
        yield "fine"


def turns_of(text, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    found = []
    while (turn := read_turn()) is not None:
        found.append(turn)
    return found


def test_turns_of_several_lines(monkeypatch):
    assert turns_of("a\nb \\\nc\n\nd", monkeypatch) == ["a", "b \nc", "", "d"]
    fenced = '"""\na\n\n/reset\nb \\\n"""\nc\n'
    assert turns_of(fenced, monkeypatch) == ["a\n\n/reset\nb \\", "c"]
    assert turns_of('"""\nnever closed', monkeypatch) == ["never closed"]


def test_images_go_with_the_next_message(tmp_path, capsys):
    photo = tmp_path / "my photo.png"
    photo.write_bytes(b"")
    model = Model()
    talk = Conversation(model, {}, system="be kind", images=["first.png"])
    talk.say("one")
    assert talk.command(f"/image '{photo}'")
    talk.say("two")
    talk.say("three")
    contents = [turn["content"] for turn in model.asked[-1]]
    assert contents[1] == [
        {"type": "image", "image": "first.png"},
        {"type": "text", "text": "one"},
    ]
    assert contents[3] == [{"type": "image", "image": str(photo)}, {"type": "text", "text": "two"}]
    assert contents[5] == "three"
    talk.command(f"/image {photo}")
    talk.command("/reset")
    talk.say("four")
    assert [turn["content"] for turn in model.asked[-1]] == ["be kind", "four"]
    assert not talk.command("/exit")
    capsys.readouterr()
    assert talk.command("/what")
    assert capsys.readouterr().err.strip() == conversation.HELP


def test_an_error_ends_a_talk_that_nobody_types(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("fail\nnever\n"))
    model = Model()
    with pytest.raises(InputError):
        Conversation(model, {}).run()
    assert len(model.asked) == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO("fail\nagain\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    Conversation(model, {}).run()
    assert [turn["content"] for turn in model.asked[-1]] == ["again"]
    assert "no; /reset starts again" in capsys.readouterr().err
