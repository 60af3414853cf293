"""`nm2trt completion`: a script that completes commands, options and their choices in bash, zsh or fish."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence

from nm2trt.cli import COMMANDS
from nm2trt.options.runs import CompletionCommand

OPTIONS = CompletionCommand
EPILOG = """to load it in every new shell:
  bash  nm2trt completion bash > ~/.local/share/bash-completion/completions/nm2trt
  zsh   nm2trt completion zsh > ~/.zfunc/_nm2trt      (with ~/.zfunc in fpath, before compinit)
  fish  nm2trt completion fish > ~/.config/fish/completions/nm2trt.fish"""

# bash splits `--flag=value` into three words, zsh leaves one; both come here as flag and value.
_BASH = r"""_nm2trt() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at=1 command="" words="" start=""
  while [ "$at" -lt "$COMP_CWORD" ]; do
    case "${COMP_WORDS[at]}" in @commands@) command=${COMP_WORDS[at]}; break ;; esac
    at=$((at + 1))
  done
  if [ "$prev" = = ] && [ "$COMP_CWORD" -gt 2 ]; then
    prev=${COMP_WORDS[COMP_CWORD-2]}
  elif [ "$cur" = = ]; then
    cur=""
  else
    case "$cur" in --*=*) prev=${cur%%=*} start=$prev= cur=${cur#*=} ;; esac
  fi
  case "$command:$prev" in
@values@
    *)
      case "$command" in
@flags@
      esac ;;
  esac
  COMPREPLY=($(compgen -P "$start" -W "$words" -- "$cur"))
}
"""


def run(options: CompletionCommand) -> int:
    """Print the script and return 0."""
    print(script(options.shell), end="")
    return 0


def script(shell: str) -> str:
    """Return the completion script for "bash", "zsh" or "fish"."""
    from nm2trt.cli.dispatch import chosen_parser, command_parser

    parsers = {"": command_parser(None)[0], **{name: chosen_parser(name) for name in COMMANDS}}
    if shell == "fish":
        return "\n".join(_fish(parsers)) + "\n"
    if shell == "zsh":
        return f"#compdef nm2trt\nautoload -U +X bashcompinit && bashcompinit\n{_bash(parsers)}"
    return _bash(parsers)


def _bash(parsers: dict[str, argparse.ArgumentParser]) -> str:
    values, flags = [], []
    for name, parser in parsers.items():
        known = list(_options(parser))
        for action in known:
            patterns = "|".join(f"{name}:{flag}" for flag in action.option_strings)
            if action.choices:
                values.append(f'    {patterns}) words="{_choices(action)}" ;;')
            elif action.nargs != 0:
                values.append(f"    {patterns}) ;;")  # a file, a name or a number: the shell's own completion
        words = [flag for action in known for flag in action.option_strings]
        words += COMMANDS if not name else _positional_choices(parser)
        flags.append(f'        {name or chr(34) * 2}) words="{" ".join(words)}" ;;')
    text = _BASH.replace("@commands@", "|".join(COMMANDS))
    text = text.replace("@values@", "\n".join(values)).replace("@flags@", "\n".join(flags))
    return f"{text}complete -o bashdefault -o default -F _nm2trt nm2trt\n"


def _fish(parsers: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    for name, summary in COMMANDS.items():
        yield f"complete -c nm2trt -n __fish_use_subcommand -f -a {name} -d {shlex.quote(summary)}"
    for name, parser in parsers.items():
        where = f"'__fish_seen_subcommand_from {name}'" if name else "__fish_use_subcommand"
        for action in _options(parser):
            words = ["complete -c nm2trt -n", where]
            words += [
                f"-l {flag[2:]}" if flag[1] == "-" else f"-s {flag[1:]}" for flag in action.option_strings
            ]
            if action.choices:
                words.append(f"-x -a {shlex.quote(_choices(action))}")
            elif action.nargs != 0:
                words.append("-r")
            yield " ".join([*words, "-d", shlex.quote(str(action.help).replace("%%", "%"))])
        if name and (choices := _positional_choices(parser)):
            yield f"complete -c nm2trt -n {where} -f -a {shlex.quote(' '.join(choices))}"


def _options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in parser._actions if action.option_strings)


def _positional_choices(parser: argparse.ArgumentParser) -> Sequence[str]:
    return [
        str(choice)
        for action in parser._actions
        if not action.option_strings and action.choices
        for choice in action.choices
    ]


def _choices(action: argparse.Action) -> str:
    return " ".join(str(choice) for choice in action.choices or ())
