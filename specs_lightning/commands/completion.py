"""`specs --completion`: what has bash complete commands and configurations.

Settings are not completed: to know them, a command has to import what it sets, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from string import Template

from specs_lightning.settings.yaml_files import SHIPPED

SCRIPT = Template("""\
_specs() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words="--config --help --print_config"
    [ "$word" = = ] && word=
    [ "$before" = = ] && before=${COMP_WORDS[COMP_CWORD-2]}  # bash splits --config=FILE
    if [ "$COMP_CWORD" = 1 ]; then
        words="$commands"
    elif [ "$before" = data ]; then
        words=check
    elif [ "$before" = --config ] || [ "${COMP_WORDS[1]}" = compare ]; then
        words="$configurations"
    elif [[ $word != -* ]]; then
        return  # files, by default
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _specs specs
""")


def bash(commands: Iterable[str]) -> str:
    """The script for bash, to be evaluated by it; a command of two words is completed word by word."""
    configurations = () if SHIPPED is None else (str(file.relative_to(SHIPPED)) for file in SHIPPED.rglob("*.yaml"))
    first_words = dict.fromkeys(name.split()[0] for name in commands)
    return SCRIPT.safe_substitute(commands=" ".join(first_words), configurations=" ".join(sorted(configurations)))
