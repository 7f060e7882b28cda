# Completion of jim(8) for bash. Installed as bash-completion/completions/jim.
_jim()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} options=
    COMPREPLY=()
    case $prev in
    -o) # the keys, as the program itself lists them
        COMPREPLY=($(compgen -S = -W "$("${COMP_WORDS[0]}" -h 2> /dev/null |
            sed -n 's/^ *\(jim\.[a-z.]*\).*/\1/p')" -- "$cur"))
        compopt -o nospace 2> /dev/null
        return
        ;;
    -p | -b | -s | -u | -e | -n | -g | -i | --jim-redis) return ;;
    esac
    if [[ $COMP_CWORD -eq 1 && $cur != -* ]]; then
        COMPREPLY=($(compgen -W 'check export import passwd token' -- "$cur"))
        return
    fi
    if [[ $cur != -* ]]; then
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames 2> /dev/null
        return
    fi
    case ${COMP_WORDS[1]} in
    check) options='-r' ;;
    export) options='-a --cluster' ;;
    import) options='--jim-redis --cluster' ;;
    passwd) options='-i' ;;
    token) options='-s -u -e -n -g' ;;
    *) options='-c -p -b -d -o -q -v -h -V' ;;
    esac
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
}
complete -F _jim jim
