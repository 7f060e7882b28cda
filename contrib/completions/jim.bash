# Completion of jim(8) for bash. Installed as bash-completion/completions/jim.
_jim()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    case $prev in
    -c | -d | check | export | import | passwd | -r | -a)
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames 2> /dev/null
        ;;
    -o) # the keys, as the program itself lists them
        COMPREPLY=($(compgen -S = -W "$("${COMP_WORDS[0]}" -h 2> /dev/null |
            sed -n 's/^ *\(jim\.[a-z.]*\).*/\1/p')" -- "$cur"))
        compopt -o nospace 2> /dev/null
        ;;
    -p | -b | -s | -u | -e | -n | -g | -i | --jim-redis) ;;
    *)
        if [[ $COMP_CWORD -eq 1 && $cur != -* ]]; then
            COMPREPLY=($(compgen -W 'check export import passwd token' -- "$cur"))
        else
            case ${COMP_WORDS[1]} in
            check) COMPREPLY=($(compgen -W '-r' -- "$cur")) ;;
            export) COMPREPLY=($(compgen -W '-a' -- "$cur")) ;;
            import) COMPREPLY=($(compgen -W '--jim-redis' -- "$cur")) ;;
            passwd) COMPREPLY=($(compgen -W '-i' -- "$cur")) ;;
            token) COMPREPLY=($(compgen -W '-s -u -e -n -g' -- "$cur")) ;;
            *) COMPREPLY=($(compgen -W '-c -p -b -d -o -q -v -h -V' -- "$cur")) ;;
            esac
        fi
        ;;
    esac
}
complete -F _jim jim
