"""Completion for the shells: our own words first, and Hydra's groups and keys behind `transfer run`."""

from __future__ import annotations

COMMANDS = "run list runs show compare rank auto rerun predict export prefetch sync workspace doctor completion"

# Hydra's own script completes a program without subcommands; it is asked with `run` taken out of the line.
BASH = """\
_transfer_complete() {
    local word="${COMP_WORDS[COMP_CWORD]}" choices
    if [ "$COMP_CWORD" -eq 1 ]; then
        choices="@COMMANDS@"
        COMPREPLY=($(compgen -W "$choices" -- "$word"))
    elif [ "${COMP_WORDS[1]}" = run ]; then
        choices=$(COMP_LINE="transfer ${COMP_LINE#*run }" transfer run -sc query=bash 2>/dev/null)
        local line=($COMP_LINE)
        [ "${COMP_LINE: -1}" = " " ] && word="" || word="${line[${#line[@]}-1]}"
        COMPREPLY=($(compgen -o nospace -W "$choices" -- "$word"))
    fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _transfer_complete transfer
"""

FISH = """\
function _transfer_complete
    set -l line (commandline -cp)
    set -l rest (string replace -r '^.*?run ' '' -- $line)
    env COMP_LINE="transfer $rest" transfer run -sc query=fish 2>/dev/null
end
complete -c transfer -f -n "not __fish_seen_subcommand_from @COMMANDS@" -a "@COMMANDS@"
complete -c transfer -f -n "__fish_seen_subcommand_from run" -a "(_transfer_complete)"
"""


def script(shell: str) -> str:
    """What `eval` or `source` takes in this shell."""
    if shell == "fish":
        return FISH.replace("@COMMANDS@", COMMANDS)
    text = BASH.replace("@COMMANDS@", COMMANDS)
    return "autoload -U +X bashcompinit && bashcompinit\n" + text if shell == "zsh" else text
