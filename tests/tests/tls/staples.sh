# Makes in the folder where it runs: a root, an authority between, a certificate of each of them for a.test, and OCSP responses
# about these by their issuers.
set -e
ca="basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature"
leaf="subjectAltName=DNS:a.test\nkeyUsage=critical,digitalSignature"
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
openssl req -x509 $key -keyout root.key -out root.pem -subj /CN=root -days 100 -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
issue() { # NAME ISSUER SERIAL EXTENSIONS
  openssl req $key -keyout "$1.key" -out "$1.csr" -subj "/CN=$1"
  printf "$4" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -set_serial "$3" -days 50 -extfile "$1.ext" -out "$1.pem"
}
issue between root 2 "$ca"
issue far between 77 "$leaf"
issue near root 77 "$leaf"
cat far.pem between.pem >far.chain
cp near.pem near.chain
# the same with its root
cat near.pem root.pem >whole.chain
cp near.key whole.key
end=$(date -u -d "+50 days" +%y%m%d%H%M%SZ) now=$(date -u +%y%m%d%H%M%SZ)
printf "V\t$end\t\t4D\tunknown\t/CN=a.test\n" >good.index
printf "R\t$end\t$now\t4D\tunknown\t/CN=a.test\n" >revoked.index
answer() { # LEAF ISSUER INDEX RESPONSE
  openssl ocsp -issuer "$2.pem" -cert "$1.pem" -reqout "$1.request" -no_nonce
  openssl ocsp -index "$3.index" -CA "$2.pem" -rsigner "$2.pem" -rkey "$2.key" -reqin "$1.request" -respout "$4" -ndays 7
}
answer far between good far.good
answer far between revoked far.revoked
answer near root good near.good
