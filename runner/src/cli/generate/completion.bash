# Completion of skreap, which is asked itself what could come next.
# bash takes a colon for the end of a word; a backend has some. So words are put together again.
_skreap() {
    local IFS=$'\n' prefix='' word i current=0
    local -a words=()
    for i in "${!COMP_WORDS[@]}"; do
        word=${COMP_WORDS[i]}
        if [[ $i -gt 0 && ( $word == :* || ${words[current]} == *: ) ]]; then
            words[current]+=$word
        else
            current=${#words[@]}
            words+=("$word")
        fi
        [[ $i -eq $COMP_CWORD ]] && break
    done
    word=${words[current]}
    [[ $COMP_WORDBREAKS == *:* && $word == *:* ]] && prefix=${word%"${word##*:}"}
    COMPREPLY=($(SKREAP_COMPLETE=bash _CLAP_COMPLETE_INDEX=$current _CLAP_IFS=$'\n' skreap -- "${words[@]}" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}
complete -o bashdefault -o default -F _skreap skreap
