# Completion of jim-cli(1) for fish. Installed as fish/vendor_completions.d/jim-cli.fish.
set -l commands chat send tail history offline online groups join leave raw
set -l none "not __fish_seen_subcommand_from $commands"
set -l talk "__fish_seen_subcommand_from chat send tail history offline"
set -l print "__fish_seen_subcommand_from chat send tail history offline online groups raw"

complete -c jim-cli -f
complete -c jim-cli -n "$none" -a chat -d 'Talk; from a pipe, each line is a message'
complete -c jim-cli -n "$none" -a send -d 'Send a message'
complete -c jim-cli -n "$none" -a tail -d 'Follow what is said, as JSON lines'
complete -c jim-cli -n "$none" -a history -d 'Print a conversation'
complete -c jim-cli -n "$none" -a offline -d 'Fetch and print what waits for you'
complete -c jim-cli -n "$none" -a online -d 'Who is online'
complete -c jim-cli -n "$none" -a groups -d 'Your groups'
complete -c jim-cli -n "$none" -a join -d 'Become a member of a group'
complete -c jim-cli -n "$none" -a leave -d 'Leave a group'
complete -c jim-cli -n "$none" -a raw -d 'Show every frame'

complete -c jim-cli -s s -l server -x -a 'tcp:// ws:// tcps:// wss://' -d 'Where the server is'
complete -c jim-cli -s u -l user -x -d 'Who you are'
complete -c jim-cli -s p -l password -x -d 'Your password'
complete -c jim-cli -s P -l password-file -r -F -d 'Read the password from a file'
complete -c jim-cli -s t -l token -x -d 'Log in by a token'
complete -c jim-cli -l ca -r -F -d 'Trust the certificates in a file'
complete -c jim-cli -s w -l wait -x -d 'Try that long to reach the server'
complete -c jim-cli -s q -l quiet -d 'Say nothing but errors'
complete -c jim-cli -s C -l no-color -d 'No colours'
complete -c jim-cli -s r -l rate -x -d 'Requests a second'
complete -c jim-cli -s V -l version -d 'Print the version'
complete -c jim-cli -s h -l help -d 'Print a summary'
complete -c jim-cli -n "$talk" -s T -l to -x -d 'The conversation with a user'
complete -c jim-cli -n "$talk" -s G -l group -x -d 'The conversation of a group'
complete -c jim-cli -n "$print" -s j -l json -d 'Print JSON'
complete -c jim-cli -n "__fish_seen_subcommand_from tail history" -s n -l last -x -d 'The last messages'
complete -c jim-cli -n "__fish_seen_subcommand_from history" -l since -x -d 'From this time on'
complete -c jim-cli -n "__fish_seen_subcommand_from history" -l until -x -d 'Up to this time'
complete -c jim-cli -n "__fish_seen_subcommand_from send" -s i -l id -x -d 'The id of the message'
