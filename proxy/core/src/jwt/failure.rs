//! Why a token is not accepted, in Envoy's words and numbers: they are answers to clients and stand in metadata.
//!
//! Source: Envoy `source/common/jwt/status.h`; what is sent observed on 1.40.

/// Declares the failures with their numbers and words.
macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why a token, or a set of keys, is not accepted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Failure { $($(#[$doc])* $name),* }

        impl Failure {
            /// What the client is told.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// What metadata have it as.
            pub fn number(self) -> u8 {
                match self { $(Self::$name => $number),* }
            }
        }
    };
}

failures! {
    Missing = 1, "Jwt is missing";
    NotYetValid = 2, "Jwt not yet valid";
    Expired = 3, "Jwt is expired";
    BadFormat = 4, "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    HeaderBadBase64 = 5, "Jwt header is an invalid Base64url encoded";
    HeaderBadJson = 6, "Jwt header is an invalid JSON";
    HeaderBadAlg = 7, "Jwt header [alg] field is required and must be a string";
    HeaderNotImplementedAlg = 8, "Jwt header [alg] is not supported";
    HeaderBadKid = 9, "Jwt header [kid] field is not a string";
    PayloadBadBase64 = 10, "Jwt payload is an invalid Base64url encoded";
    PayloadBadJson = 11, "Jwt payload is an invalid JSON";
    IssNotString = 12, "Jwt payload [iss] field is not a string";
    SubNotString = 13, "Jwt payload [sub] field is not a string";
    IatNotInteger = 14, "Jwt payload [iat] field is not an integer";
    IatOutOfRange = 15, "Jwt payload [iat] field is not a positive 64 bit integer";
    NbfNotInteger = 16, "Jwt payload [nbf] field is not an integer";
    NbfOutOfRange = 17, "Jwt payload [nbf] field is not a positive 64 bit integer";
    ExpNotInteger = 18, "Jwt payload [exp] field is not an integer";
    ExpOutOfRange = 19, "Jwt payload [exp] field is not a positive 64 bit integer";
    JtiNotString = 20, "Jwt payload [jti] field is not a string";
    AudNotString = 21, "Jwt payload [aud] field is not a string or string list";
    SignatureBadBase64 = 22, "Jwt signature is an invalid Base64url encoded";
    Ed25519WrongLength = 23, "Jwt ED25519 signature is wrong length";
    UnknownIssuer = 24, "Jwt issuer is not configured";
    AudienceNotAllowed = 25, "Audiences in Jwt are not allowed";
    VerificationFail = 26, "Jwt verification fails";
    KeysNotFetched = 27, "Jwks remote fetch is failed";
    KeysBadJson = 28, "Jwks is an invalid JSON";
    NoKeys = 29, "Jwks does not have [keys] field";
    BadKeys = 30, "[keys] in Jwks is not an array";
    NoValidKeys = 31, "Jwks doesn't have any valid public key";
    KidAlgMismatch = 32, "Jwks doesn't have key to match kid or alg from Jwt";
}
