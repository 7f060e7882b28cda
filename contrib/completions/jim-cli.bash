# Completion of jim-cli(1) for bash. Installed as bash-completion/completions/jim-cli.
_jim_cli()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command='' i
    local commands='chat send tail history offline online groups join leave raw'
    local general='--server --user --password --password-file --token --ca --wait --quiet
        --no-color --rate --version --help'
    COMPREPLY=()
    case $prev in
    -s | --server)
        COMPREPLY=($(compgen -W 'tcp:// ws:// tcps:// wss://' -- "$cur"))
        compopt -o nospace 2> /dev/null
        return
        ;;
    -P | --password-file | --ca)
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames 2> /dev/null
        return
        ;;
    -u | --user | -p | --password | -t | --token | -w | --wait | -T | --to | -G | --group | \
        -n | --last | --since | --until | -i | --id | -r | --rate)
        return
        ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        case " $commands " in
        *" ${COMP_WORDS[i]} "*)
            command=${COMP_WORDS[i]}
            break
            ;;
        esac
    done
    case $command in
    '') [[ $cur == -* ]] || general=$commands ;;
    chat | offline) general="$general --to --group --json" ;;
    send) general="$general --to --group --json --id" ;;
    tail) general="$general --to --group --json --last" ;;
    history) general="$general --to --group --json --last --since --until" ;;
    online | groups | raw) general="$general --json" ;;
    esac
    [[ $command != '' && $cur != -* ]] && return
    COMPREPLY=($(compgen -W "$general" -- "$cur"))
}
complete -F _jim_cli jim-cli
